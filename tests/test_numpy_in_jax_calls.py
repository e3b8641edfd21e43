"""Calls of NumPy functions from JAX: dtypes, structures, errors, executors."""

import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from bridge import ArgumentError, NoRuleError, OptionError, numpy2jax
from bridge.rules import SPSA, ComplexStep, FiniteDifference, ParameterShift

X = np.array([0.3, -1.2])
XS = np.random.default_rng(1).normal(size=(4, 2))
SINGLE, DOUBLE = np.empty((), np.float32), np.empty(())
SHIFTS = ParameterShift()


@pytest.mark.usefixtures("x64")
def test_exceptions_keep_their_type_and_points_their_order():
    paid, answers, fails = [], {}, [True]

    def remote(x):
        if (key := x.tobytes()) not in answers:
            if fails[0] and x[1] > 0:
                raise LookupError("no answer")
            paid.append(key)
            answers[key] = np.cos(x).prod()
        return answers[key]

    f = numpy2jax(remote, gradient=SHIFTS, out=DOUBLE)
    with pytest.raises(LookupError, match="no answer") as error:
        jax.grad(f)(X)
    text = "remote was evaluated for a derivative, at x[1] shifted by 1.5708."
    assert text in error.value.__notes__
    with pytest.raises(jax.errors.JaxRuntimeError, match="LookupError: no answer") as error:
        jax.block_until_ready(jax.jit(jax.grad(f))(X))
    assert text in str(error.value)
    fails[0] = False
    expected = -np.sin(X) * np.cos(X[::-1])
    np.testing.assert_allclose(jax.grad(f)(X), expected, atol=1e-12)
    assert len(paid) == len({*paid}) == 5  # the value and four shifts, none of them twice


@pytest.mark.usefixtures("x64")
def test_too_many_points_and_rules_that_lack():
    points = []
    fn = lambda x: points.append(len(x)) or np.cos(x).prod(1)
    f = numpy2jax(fn, gradient=SHIFTS, vectorized=True, out=DOUBLE, max_points=6)
    jax.jit(jax.grad(f))(X)
    with pytest.raises(jax.errors.JaxRuntimeError, match="takes 7 points, and max_points=6"):
        jax.block_until_ready(jax.jit(jax.hessian(f))(X))
    assert points == [4]
    product = lambda x, w: np.cos(x).prod() * w
    by_w = numpy2jax(product, gradient={"w": SHIFTS}, out=DOUBLE)
    with pytest.raises(NoRuleError, match=r"argument x of <lambda> has no .*`gradient=`"):
        jax.make_jaxpr(jax.grad(by_w))(X, 2.0)
    with pytest.raises(OptionError, match=r"names 'v', no array among .*<lambda>: x, w"):
        numpy2jax(product, gradient={"v": SHIFTS})(X, jnp.array(2.0))


@pytest.mark.usefixtures("x64")
def test_arguments_belong_to_the_function_and_results_to_the_caller():
    kept, buffer = [], np.empty(())

    def rude(x):
        buffer[...] = np.cos(x).prod()
        x[:] = 9
        kept.append(x)
        return buffer

    f = numpy2jax(rude, gradient=SHIFTS, out=DOUBLE)
    found = jax.jit(jax.hessian(f))(X)
    expected = jax.hessian(lambda x: jnp.cos(x).prod())(X)
    jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((300, 300))))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert len(kept) == 7
    assert all((x == 9).all() for x in kept)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("vectorized", [False, True])
def test_executors(vectorized):
    options = {"vectorized": True, "batch_size": 2} if vectorized else {}
    fn = lambda x: np.cos(x).prod(-1)
    with ThreadPoolExecutor(2) as pool:
        f = numpy2jax(fn, gradient=SHIFTS, executor=pool, out=DOUBLE, **options)
        found = jax.jit(jax.hessian(f))(X)
    np.testing.assert_allclose(found, jax.hessian(lambda x: jnp.cos(x).prod())(X), atol=1e-12)
    assert (f.evaluations, f.calls) == (7, 4 if vectorized else 7)


def test_pickling_and_repr():
    f = numpy2jax(np.linalg.norm, gradient=FiniteDifference(), out=np.empty((), np.float32))
    f(jnp.array([3.0, 4.0]))
    assert repr(f).startswith("<numpy2jax norm (gradient=FiniteDifference(h=None, accuracy=2")
    assert "vectorized=False), 1 evaluations in 1 calls>" in repr(f)
    again = pickle.loads(pickle.dumps(f))
    assert again.evaluations == 0
    np.testing.assert_allclose(jax.grad(again)(jnp.array([3.0, 4.0])), [0.6, 0.8], atol=1e-3)


WRONG = {
    "no axis": (lambda x: x.sum(), r"vectorized, but its result 0 is float64\[\] for 3 points"),
    "length": (lambda x: x[:2], r"its result 0 is float64\[2,2\] for 3 points"),
    "text": (lambda x: "a", r"result of <lambda> is a str, no array"),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("fn", "text"), WRONG.values(), ids=WRONG)
def test_wrong_results(fn, text):
    f = numpy2jax(fn, vectorized=True, out=np.empty(2))
    with pytest.raises(ArgumentError, match=text):
        jax.vmap(f)(XS[:3])


@pytest.mark.usefixtures("x64")
def test_shapes_that_change_and_nan():
    f = numpy2jax(lambda x: np.ones(2 if x[0] < 1 else 3), gradient=SHIFTS)
    with pytest.raises(
        ArgumentError, match=r"float64\[2\] at one point and float64\[3\] at another"
    ):
        jax.jacrev(f)(X)
    f = numpy2jax(lambda x: np.where(x < 0, np.nan, x), gradient=FiniteDifference())
    np.testing.assert_array_equal(f(X), [X[0], np.nan])
    np.testing.assert_allclose(jax.jacfwd(f)(X), [[1, 0], [np.nan, np.nan]], atol=1e-9)


def test_results_of_double_precision_in_32_bit_mode():
    f = numpy2jax(lambda x: x.astype(float), out=np.empty(2, np.float32))
    with pytest.raises(ArgumentError, match=r'float64\[2\].*dtype="float64"'):
        f(jnp.float32(X))
    seen = set()
    fn = lambda x: seen.add(str(x.dtype)) or np.cos(x).prod()
    for out in (None, SINGLE):
        f = numpy2jax(fn, gradient=SHIFTS, dtype="float64", out=out)
        value, gradient = jax.jit(jax.value_and_grad(f))(jnp.float32(X))
        assert (value.dtype, gradient.dtype, seen) == (jnp.float32, jnp.float32, {"float64"})
        x = np.float64(np.float32(X))  # rounded once, at the end
        assert value == np.float32(np.cos(x).prod())
        np.testing.assert_allclose(gradient, -np.sin(x) * np.cos(x[::-1]), rtol=1e-7)


def test_the_error_for_double_precision_names_the_option():
    with pytest.raises(ArgumentError, match='dtype="float64"'):
        numpy2jax(lambda x: np.cos(x.astype(float)).prod())(jnp.float32(X))


def test_examples_of_double_precision_are_rounded_as_results_are():
    f = numpy2jax(lambda x: np.cos(x).prod(), dtype="float64", out=np.empty(()))
    assert f(jnp.float32(X)).dtype == jnp.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    x = jnp.array(X, dtype)
    f = numpy2jax(lambda x: np.cos(x).prod(), gradient=SHIFTS, dtype="float64", out=x[0])
    value, gradient = jax.value_and_grad(f)(x)
    assert (value.dtype, gradient.dtype) == (x.dtype, x.dtype)
    at = np.asarray(x, float)
    expected = jnp.array(-np.sin(at) * np.cos(at[::-1]), dtype)
    np.testing.assert_array_equal(gradient, expected)  # rounded once
    assert value == jnp.array(np.cos(at).prod(), dtype)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("bfloat16", {"dtype": "float64"}),
        ("float32", {}),
        ("float32", {"dtype": "float64"}),
    ],
)
def test_complex_steps_have_all_digits(dtype, options):
    f = numpy2jax(lambda x: (x * 1e-12).sum(), gradient=ComplexStep(), **options)
    found = jax.grad(f)(jnp.array(X, dtype))
    np.testing.assert_allclose(np.asarray(found, float), 1e-12, rtol=1e-2)


MIXED = {
    "one for both": SPSA(2, seed=0),
    "one of shifts": {"x": FiniteDifference(), "y": SPSA(8, seed=1)},
    "directions": {"x": SPSA(2, seed=0), "y": SPSA(8, seed=1)},
    "steps": {"x": SPSA(h=0.01, seed=0), "y": SPSA(h=0.1, seed=1)},
    "seeds": {"x": SPSA(seed=0), "y": SPSA(seed=0)},
    "complex steps": {"x": ComplexStep(h=1e-30), "y": ComplexStep(h=1e-20)},
    "complex and shifts": {"x": ComplexStep(), "y": SHIFTS},
    "complex and differences": {"x": ComplexStep(), "y": FiniteDifference()},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "rules",
    MIXED.values(),
    ids=MIXED,
)
def test_arguments_with_rules_of_their_own(rules):
    a, b = np.array([1.0, -2]), np.array([3.0, 0.5])
    f = numpy2jax(lambda x, y: (a * x).sum() + b @ np.sin(y), gradient=rules, out=DOUBLE)
    draws = [jax.grad(f, (0, 1))(X, 0.0 * X) for _ in range(200)]
    for expected, found in zip((a, b), zip(*draws, strict=True), strict=True):
        error = np.std(found, 0) / len(draws) ** 0.5
        assert (np.abs(np.mean(found, 0) - expected) < 5 * error + 1e-2).all()


def test_integers():
    fn = lambda x, n: (np.sin(x * np.float32(n)), n + 1, n > 1, 3)
    f = numpy2jax(fn, gradient={"x": ParameterShift((2.0,))})
    x, n = jnp.float32(0.3), jnp.int32(2)
    y, m, larger, three = jax.jit(f)(x, n)
    assert (m, m.dtype, larger.dtype, larger, three) == (3, jnp.int32, bool, True, 3)
    found, none = jax.grad(lambda x, n: f(x, n)[0], (0, 1), allow_int=True)(x, n)
    np.testing.assert_allclose([y, found], [np.sin(0.6), 2 * np.cos(0.6)], rtol=1e-5)
    assert none.dtype == jax.dtypes.float0
    assert jax.vmap(f, (None, 0))(x, jnp.arange(3))[1].tolist() == [1, 2, 3]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Pair:
    angles: object
    shift: object


@pytest.mark.usefixtures("x64")
def test_trees_static_arguments_and_rules_by_path():
    def fn(p, mode, *, scale=1.0):
        y = getattr(np, mode)(p["pair"].angles) * np.sin(3 * p["list"][0]) * scale
        return Pair(y, [p["pair"].shift])

    f = numpy2jax(
        fn,
        gradient={"p['list']": ParameterShift((3.0,)), "p": SHIFTS, "scale": FiniteDifference()},
        static_argnames="mode",
    )
    p = {"pair": Pair(jnp.array(X), jnp.array(2.0)), "list": [jnp.array(0.4)]}
    value, found = jax.value_and_grad(lambda p: f(p, "cos", scale=jnp.array(0.3)).angles.sum())(p)
    y, sine = np.cos(X), np.sin(1.2)
    np.testing.assert_allclose(value, (y * sine * 0.3).sum())
    np.testing.assert_allclose(found["pair"].angles, -np.sin(X) * sine * 0.3, atol=1e-12)
    np.testing.assert_allclose(found["list"][0], 3 * np.cos(1.2) * y.sum() * 0.3, atol=1e-12)
    by_scale = jax.grad(lambda s: f(p, mode="cos", scale=s).angles.sum())(2.0)
    np.testing.assert_allclose(by_scale, y.sum() * sine, atol=1e-8)
    result = f(p, "sin", scale=jnp.array(0.3))
    assert isinstance(result, Pair)
    assert result.shift == [2.0]


def test_a_number_for_an_argument_that_has_a_rule():
    f = numpy2jax(lambda x, s: x * np.float32(s), gradient={"x": SHIFTS, "s": SHIFTS})
    assert f(jnp.float32(2), 3.0) == 6


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("rule", [SHIFTS, FiniteDifference(), ComplexStep()])
def test_arguments_without_elements(rule, size):
    f = numpy2jax(lambda x: np.sin(x).sum(), gradient=rule, out=lambda x: x.sum())
    assert jax.grad(f)(jnp.zeros(size)).shape == (size,)
    assert jax.vmap(jax.grad(f))(jnp.zeros((0, 2))).shape == (0, 2)
