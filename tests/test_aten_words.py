"""Each word of the vocabulary, as torch computes it, beside what JAX itself computes."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

pytest.importorskip("jax")
pytest.importorskip("torch")

import jax
import jax.numpy as jnp
import torch
from jax import lax

from bridge import jax2torch, to_torch

REALS = ("float32", "float64")
COMPLEX = ("complex64", "complex128")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
INTEGERS = SIGNED + UNSIGNED
SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 2.5, -2.5, 1e30, -1e30, np.inf, -np.inf, np.nan)
TOLERANCE = {"float32": 3e-5, "complex64": 3e-5, "float16": 4e-3, "bfloat16": 3e-2}


def check(function, *arrays):
    """Compare a lowered function with the jitted one on these arrays."""
    with jax.enable_x64(True):
        expected = jax.tree.leaves(jax.jit(function)(*map(jnp.asarray, arrays)))
        actual = jax2torch(function, lower="aten", x64=True)(*map(to_torch, arrays))
    actual = actual if isinstance(actual, (list, tuple)) else [actual]
    for x, y in zip(actual, expected, strict=True):
        compare(x, np.asarray(y))


def compare(x, expected):
    assert str(x.dtype) == f"torch.{expected.dtype.name}"
    assert tuple(x.shape) == expected.shape
    name = expected.dtype.name
    if not jnp.issubdtype(expected.dtype, np.inexact):
        np.testing.assert_array_equal(x.numpy(), expected)
        return
    wide = np.complex128 if name.startswith("complex") else np.float64
    actual = x.to(torch.complex128 if wide is np.complex128 else torch.float64).numpy()
    tolerance = TOLERANCE.get(name, 1e-9)
    np.testing.assert_allclose(actual, expected.astype(wide), rtol=tolerance, atol=tolerance)


def integers(dtype, seed, *shape):
    generator, info = np.random.default_rng(seed), np.iinfo(dtype)
    values = generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    edges = np.array([info.min, info.max, 0, 1, info.max // 2, info.max - 1], dtype)
    small = generator.integers(0, 5, shape).astype(dtype)
    kind = generator.integers(0, 3, shape)
    return np.where(
        kind == 0, values, np.where(kind == 1, generator.choice(edges, shape), small)
    ).astype(dtype)


def reals(dtype, seed, *shape):
    generator = np.random.default_rng(seed)
    values = generator.normal(size=shape) * 3
    return np.where(generator.random(shape) < 0.3, generator.choice(SPECIAL, shape), values).astype(
        dtype
    )


def numbers(dtype, seed, *shape):
    """Numbers without special values."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=shape) * 2
    if dtype.startswith("complex"):
        values = values + 1j * generator.normal(size=shape)
    return values.astype(dtype)


SEEDS = st.integers(0, 2**31)
few = settings(max_examples=3, deadline=None, derandomize=True)

ANY_REAL = [
    "abs",
    "neg",
    "sign",
    "exp",
    "exp2",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "sqrt",
    "rsqrt",
    "cbrt",
    "square",
    "floor",
    "ceil",
    "logistic",
    "erf",
    "erfc",
    "erf_inv",
    "lgamma",
    "is_finite",
]
NATIVE_COMPLEX = [
    "abs",
    "neg",
    "sign",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "sqrt",
    "rsqrt",
    "square",
    "logistic",
    "real",
    "imag",
    "conj",
]


@pytest.mark.parametrize("word", ANY_REAL)
@few
@given(SEEDS, st.sampled_from(REALS))
def test_unary_word_of_reals(word, seed, dtype):
    check(getattr(lax, word), reals(dtype, seed, 200))


@pytest.mark.parametrize("word", ["digamma", "bessel_i0e", "bessel_i1e"])
@few
@given(SEEDS, st.sampled_from(REALS))
def test_special_function(word, seed, dtype):
    check(getattr(lax, word), numbers(dtype, seed, 200))


@pytest.mark.parametrize("word", NATIVE_COMPLEX)
@few
@given(SEEDS, st.sampled_from(COMPLEX))
def test_unary_word_of_complex_numbers(word, seed, dtype):
    check(getattr(lax, word), numbers(dtype, seed, 200))


@pytest.mark.parametrize(
    "word", ["neg", "sign", "square", "bitwise_not", "population_count", "clz"]
)
@few
@given(SEEDS, st.sampled_from(INTEGERS))
def test_unary_word_of_integers(word, seed, dtype):
    check(getattr(lax, word), integers(dtype, seed, 200))


@pytest.mark.parametrize(
    "word",
    [
        "add",
        "sub",
        "mul",
        "div",
        "rem",
        "pow",
        "max",
        "min",
        "atan2",
        "nextafter",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    ],
)
@few
@given(SEEDS, st.sampled_from(REALS))
def test_binary_word_of_reals(word, seed, dtype):
    check(getattr(lax, word), reals(dtype, seed, 200), reals(dtype, seed + 1, 200))


@pytest.mark.parametrize("word", ["add", "sub", "mul", "div", "pow", "eq", "ne"])
@few
@given(SEEDS, st.sampled_from(COMPLEX))
def test_binary_word_of_complex_numbers(word, seed, dtype):
    check(getattr(lax, word), numbers(dtype, seed, 200), numbers(dtype, seed + 1, 200))


@pytest.mark.parametrize("word", ["igamma", "igammac", "zeta"])
@few
@given(SEEDS, st.sampled_from(REALS))
def test_binary_special_function(word, seed, dtype):
    x, y = (np.abs(numbers(dtype, seed + k, 200)) + np.asarray(1.1, dtype) for k in range(2))
    check(getattr(lax, word), x, y)


@pytest.mark.parametrize(
    "word",
    [
        "add",
        "sub",
        "mul",
        "div",
        "rem",
        "max",
        "min",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "shift_left",
        "shift_right_logical",
    ],
)
@few
@given(SEEDS, st.sampled_from(INTEGERS))
def test_binary_word_of_integers(word, seed, dtype):
    check(getattr(lax, word), integers(dtype, seed, 200), integers(dtype, seed + 1, 200))


@few
@given(SEEDS, st.sampled_from(SIGNED))
def test_arithmetic_shift(seed, dtype):
    check(lax.shift_right_arithmetic, integers(dtype, seed, 200), integers(dtype, seed + 1, 200))


@few
@given(SEEDS, st.sampled_from(INTEGERS), st.sampled_from([0, 1, 2, 3, 7]))
def test_integer_power(seed, dtype, exponent):
    check(lambda x: lax.integer_pow(x, exponent), integers(dtype, seed, 200))
    check(lambda x: lax.integer_pow(x, -exponent), numbers("float64", seed, 5))


@pytest.mark.parametrize("result", [*INTEGERS, "float32", "float64", "bool", "float16", "bfloat16"])
@few
@given(SEEDS, st.sampled_from((*INTEGERS, *REALS)))
def test_conversion(result, seed, dtype):
    x = integers(dtype, seed, 200) if "int" in dtype else reals(dtype, seed, 200)
    check(lambda x: lax.convert_element_type(x, result), x)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int8", "int64", "uint64"])
def test_conversion_saturates(dtype):
    info = np.iinfo(dtype)
    edges = [info.min, info.max, 2.0**31, 2.0**32, 2.0**63, 2.0**64, -(2.0**63), -1.0, 254.7]
    x = np.array([*edges, *(1.0001 * e for e in edges), np.inf, -np.inf, np.nan], np.float64)
    check(lambda x: lax.convert_element_type(x, dtype), x)


@pytest.mark.parametrize("word", ["sum", "prod", "max", "min"])
@few
@given(SEEDS, st.sampled_from(INTEGERS), st.sampled_from([(0,), (1,), (0, 1), ()]))
def test_reduction_of_integers(word, seed, dtype, axes):
    reduce = getattr(lax, f"reduce_{word}")
    check(lambda x: reduce(x, axes), integers(dtype, seed, 4, 3))


@pytest.mark.parametrize("word", ["sum", "prod", "max", "min"])
@few
@given(SEEDS, st.sampled_from(REALS), st.sampled_from([(0,), (1,), (0, 1)]))
def test_reduction_of_reals(word, seed, dtype, axes):
    reduce = getattr(lax, f"reduce_{word}")
    check(lambda x: reduce(x, axes), numbers(dtype, seed, 4, 3))
    if word in ("max", "min"):
        check(lambda x: reduce(x, axes), reals(dtype, seed, 4, 3))


@pytest.mark.parametrize("word", ["and", "or", "xor"])
@few
@given(SEEDS)
def test_reduction_of_truth_values(word, seed):
    x = np.random.default_rng(seed).random((4, 3)) < 0.5
    check(lambda x: getattr(lax, f"reduce_{word}")(x, (1,)), x)


@pytest.mark.parametrize("word", ["argmax", "argmin"])
@few
@given(SEEDS, st.sampled_from((*REALS, *INTEGERS)))
def test_argument(word, seed, dtype):
    x = integers(dtype, seed, 5, 4) if "int" in dtype else reals(dtype, seed, 5, 4)
    check(lambda x: getattr(lax, word)(x, 1, np.int32), x)


@pytest.mark.parametrize("word", ["cumsum", "cumprod", "cummax", "cummin"])
@few
@given(SEEDS, st.sampled_from((*REALS, "int8", "int32", "uint32", "int64")), st.booleans())
def test_cumulative(word, seed, dtype, reverse):
    x = integers(dtype, seed, 4, 5) if "int" in dtype else numbers(dtype, seed, 4, 5)
    if dtype in REALS and word in ("cummax", "cummin"):
        x = reals(dtype, seed, 4, 5)
    check(lambda x: getattr(lax, word)(x, 1, reverse), x)


@few
@given(SEEDS, st.sampled_from(REALS), st.booleans())
def test_cumulative_logsumexp(seed, dtype, reverse):
    check(lambda x: lax.cumlogsumexp(x, 0, reverse), numbers(dtype, seed, 5, 2))


@few
@given(SEEDS, st.sampled_from((*REALS, *INTEGERS)), st.integers(1, 3))
def test_sort_by_several_keys(seed, dtype, count):
    generator = np.random.default_rng(seed)
    make = integers if "int" in dtype else reals
    keys = [generator.choice(make(dtype, seed + k, 3), (2, 9)) for k in range(3)]
    check(lambda *xs: lax.sort(xs, num_keys=count), *keys)


@few
@given(SEEDS)
def test_sort_of_complex_numbers(seed):
    x = np.round(numbers("complex128", seed, 9))
    check(lambda x: lax.sort(x), x)


@few
@given(SEEDS, st.sampled_from((*REALS, "int32", "uint32", "int64")))
def test_top_k(seed, dtype):
    x = integers(dtype, seed, 3, 6) if "int" in dtype else numbers(dtype, seed, 3, 6)
    check(lambda x: lax.top_k(x, 3), x)


@pytest.mark.parametrize("mode", ["clip", "fill", "promise_in_bounds"])
@few
@given(SEEDS, st.sampled_from(("float64", "int32", "uint32", "uint8", "bool")))
def test_reading_at_indices(mode, seed, dtype):
    generator = np.random.default_rng(seed)
    low, high = (0, 4) if mode == "promise_in_bounds" else (-7, 9)
    rows, columns = generator.integers(low, high, (2, 6))
    columns = columns % 3
    x = generator.integers(0, 100, (4, 3)).astype(dtype)
    check(lambda x, i: x.at[i].get(mode=mode), x, rows)
    check(lambda x, i, j: x.at[i, j].get(mode=mode), x, rows, columns)
    check(lambda x, j: x.at[:, j].get(mode=mode), x, columns)
    check(lambda x, i: jax.vmap(lambda r, k: r.at[k].get(mode=mode))(x.T, i[:3]), x, rows)


@few
@given(SEEDS, st.sampled_from(("float64", "int32")))
def test_reading_with_a_fill_value(seed, dtype):
    rows = np.random.default_rng(seed).integers(-7, 9, 6)
    x = np.arange(12).reshape(4, 3).astype(dtype)
    check(lambda x, i: x.at[i].get(mode="fill", fill_value=-3), x, rows)


@pytest.mark.parametrize("kind", ["set", "add", "subtract", "multiply", "min", "max"])
@few
@given(SEEDS, st.sampled_from(("float64", "int32", "uint32", "int8")))
def test_writing_at_indices(kind, seed, dtype):
    generator = np.random.default_rng(seed)
    rows = generator.permutation(np.arange(-6, 9))[:6]
    if kind == "set":  # what is written twice is in no order
        rows = generator.permutation([0, 1, 2, 3, 7, 9])
    x = integers(dtype, seed, 4, 3) if "int" in dtype else numbers(dtype, seed, 4, 3)
    u = integers(dtype, seed + 1, 6, 3) if "int" in dtype else numbers(dtype, seed + 1, 6, 3)
    for mode in ("drop", "clip"):
        if mode == "clip" and kind == "set":
            rows = rows[:4] % 4
            rows, u = np.unique(rows), u[: len(np.unique(rows))]
        check(lambda x, i, u, m=mode: getattr(x.at[i], kind)(u, mode=m), x, rows, u)


@few
@given(SEEDS)
def test_dynamic_slices(seed):
    i, j = np.random.default_rng(seed).integers(-8, 8, 2).astype(np.int32)
    x, u = numbers("float64", seed, 5, 4), numbers("float64", seed, 2, 3)
    check(lambda x, i, j: lax.dynamic_slice(x, (i, j), (2, 3)), x, i, j)
    check(lambda x, u, i, j: lax.dynamic_update_slice(x, u, (i, j)), x, u, i, j)


@few
@given(st.integers(-2, 3), st.integers(-2, 3), st.integers(0, 2))
def test_padding(low, high, interior):
    x = np.arange(12.0).reshape(4, 3)
    config = [(low, high, interior), (high, 1, 0)]
    check(lambda x: lax.pad(x, -1.0, config), x)
    check(lambda x, v: lax.pad(x, v, config), x, np.float64(2.5))


@few
@given(SEEDS, st.sampled_from(("float32", "float64", "complex128", "int32", "uint32", "bool")))
def test_products(seed, dtype):
    generator = np.random.default_rng(seed)
    x, y = (generator.integers(-9, 9, s).astype(dtype) for s in ((2, 3, 4, 5), (4, 2, 6, 3)))
    numbers_ = (((1, 2), (3, 0)), ((0,), (1,)))
    check(lambda x, y: lax.dot_general(x, y, numbers_), x, y)


@pytest.mark.parametrize("word", ["max", "min", "add"])
@few
@given(SEEDS, st.integers(1, 2), st.integers(1, 2), st.integers(1, 2))
def test_windows(word, seed, stride, dilation, base):
    x = numbers("float64", seed, 6, 5)
    first = {"max": -np.inf, "min": np.inf, "add": 0.0}[word]
    check(
        lambda x: lax.reduce_window(
            x,
            first,
            getattr(lax, word),
            (2, 3),
            (stride, 1),
            [(1, 0), (0, 2)],
            base_dilation=(base, 1),
            window_dilation=(dilation, 1),
        ),
        x,
    )


@few
@given(SEEDS, st.integers(1, 2), st.integers(1, 2), st.sampled_from([(1, 1), (2, 1), (1, 2)]))
def test_convolutions(seed, stride, dilation, groups):
    features, batches = groups
    x = numbers("float64", seed, 4, 7, 6, 4)
    w = numbers("float64", seed + 1, 3, 2, 4 // features, 4)
    check(
        lambda x, w: lax.conv_general_dilated(
            x,
            w,
            (stride, 1),
            [(1, -1), (0, 2)],
            lhs_dilation=(dilation, 1),
            rhs_dilation=(1, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=features,
            batch_group_count=batches,
        ),
        x,
        w,
    )


@few
@given(SEEDS)
def test_bits_as_other_dtypes(seed):
    x = numbers("float32", seed, 3, 2)
    check(lambda x: lax.bitcast_convert_type(x, jnp.uint32), x)
    check(lambda x: lax.bitcast_convert_type(x, jnp.uint8), x)
    check(lambda x: lax.bitcast_convert_type(x, jnp.float64), x)
    check(lambda x: lax.bitcast_convert_type(x, jnp.int16), integers("uint32", seed, 3))
    check(lambda x: lax.bitcast_convert_type(x, jnp.uint64), integers("int64", seed, 3))


@few
@given(SEEDS)
def test_choices(seed):
    x, y, z = (numbers("float64", seed + k, 8) for k in range(3))
    which = np.random.default_rng(seed).integers(0, 3, 8).astype(np.int32)
    check(lambda w, x, y, z: lax.select_n(w, x, y, z), which, x, y, z)
    check(lambda x: lax.clamp(-1.0, x, 1.5), reals("float64", seed, 9))
    check(lambda x: lax.reduce_precision(x, 8, 7), numbers("float32", seed, 9))
    check(lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), np.append(x, [0.5, -2.5]))
    check(lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), np.append(x, [0.5, -2.5]))


def test_largest_float_below_a_half_rounds_to_zero():
    x = np.array([0.49999999999999994, -0.49999999999999994, 4503599627370497.5])
    check(lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), x)


@few
@given(SEEDS)
def test_total_order(seed):
    x, y = (reals("float64", seed + k, 12) for k in range(2))
    check(lambda x, y: jnp.searchsorted(jnp.sort(x), y), x, y)


@few
@given(SEEDS, st.sampled_from(("float16", "bfloat16")))
def test_sums_of_half_precision(seed, dtype):
    x = np.asarray(jnp.asarray(np.random.default_rng(seed).random((64, 3)), dtype))
    check(lambda x: (x.sum(0), jnp.cumsum(x, 0), x.T @ x, x.mean()), x)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@few
@given(SEEDS)
def test_random_bits_are_those_of_jax(bits, seed):
    dtype = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint64}[bits]
    data = np.array([seed, 7], np.uint32)
    check(lambda k: jax.random.bits(jax.random.wrap_key_data(k), (5,), dtype), data)
    check(lambda k: jax.random.randint(jax.random.wrap_key_data(k), (5,), -3, 1000), data)
    check(lambda k: jax.random.permutation(jax.random.split(k)[1], 6), data)
