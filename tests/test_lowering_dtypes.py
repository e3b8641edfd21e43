"""Functions of small dtypes, of NaN and of nothing that XLA compiles, against torch itself."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch
from torch.nn import functional as F  # noqa: N812

from tests.torch_in_jax import listed, xla

pytestmark = pytest.mark.usefixtures("x64")


def in_jax(x):
    """An array like a tensor; NumPy has no bfloat16 of its own."""
    dtype = str(x.dtype).removeprefix("torch.")
    return jnp.asarray((x.double() if x.is_floating_point() else x).numpy(), dtype)


def same(mine, theirs, rtol=0.0):
    assert str(mine.dtype) == str(theirs.dtype).removeprefix("torch.")
    if theirs.is_floating_point():
        info = torch.finfo(theirs.dtype)
        rtol, atol = max(rtol, 2 * info.eps), 4 * max(info.smallest_normal * info.eps, 1e-30)
        expected, mine = theirs.double().numpy(), np.asarray(mine, "float64")
        np.testing.assert_allclose(mine, expected, rtol, atol)
    else:
        np.testing.assert_array_equal(np.asarray(mine), theirs.resolve_conj().numpy())


def check(function, *xs, rtol=0.0):
    """Values and gradients of the first argument equal torch's."""
    x, *others = xs
    leaf = x.clone().requires_grad_(x.is_floating_point())
    theirs = listed(function(leaf * 1, *others))
    mine = listed(jax.jit(xla(function))(*map(in_jax, xs)))
    for a, b in zip(mine, theirs, strict=True):
        same(a, b.detach(), rtol)
    flowing = [i for i, y in enumerate(theirs) if y.requires_grad]
    if not flowing:
        return
    generator = torch.Generator().manual_seed(5)
    given = [torch.randn(theirs[i].shape, generator=generator) for i in flowing]
    given = [c.to(theirs[i].dtype) for c, i in zip(given, flowing, strict=True)]
    some = lambda x: [listed(xla(function)(x, *map(in_jax, others)))[i] for i in flowing]
    (slope,) = jax.vjp(jax.jit(some), in_jax(x))[1](list(map(in_jax, given)))
    (expected,) = torch.autograd.grad([theirs[i] for i in flowing], leaf, given)
    same(slope, expected, rtol)


GENERATOR = torch.Generator().manual_seed(3)
HALVES = [torch.float16, torch.bfloat16]
# Squares of the first exceed what float16 holds, those of the last are less.
POINTS = torch.tensor([1000.0, 0.5, -3.25, 7e-5])
LARGE = torch.tensor([[900.0, 1100.0, 1003.0], [312.0, -250.0, 500.5]])

NUMBERS = {
    "divided": lambda x: x / 65536,
    "multiplied": lambda x: (x * 70000.0, x * 1e-8),
    "divided by": lambda x: 70000.0 / x,
    "floored": lambda x: torch.div(x.detach(), 1 / 3, rounding_mode="floor"),
    "added": lambda x: (x + 65504.0, x - 1e-8, 70000.0 - x, torch.add(x, x, alpha=1e-5)),
    "scaled": lambda x: (torch.sub(x, x, alpha=1 / 3), torch.rsub(x, 1 / 3, alpha=3)),
    "product": lambda x: torch.addcmul(x, x, x, value=1e-8),
    "quotient": lambda x: torch.addcdiv(x, x, x.detach() * 2 + 1, value=1e-8),
    "between": lambda x: (torch.lerp(x, x * 2, 1e-4), torch.lerp(x, x.detach(), 1 / 3)),
    "array without axes": lambda x: x * torch.tensor(70000.0),
    "rounded first": lambda x: (torch.remainder(x, 1 / 3), torch.fmod(x, 1 / 3)),
    "powers": lambda x: (x.abs() ** (1 / 3), (x / 1000) ** 3, 1.1 ** (x / 500)),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("function", NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_not_rounded_to_16_bits(function, dtype):
    check(function, POINTS.to(dtype))


SUMS = {
    "spread": lambda x: (x.std(), x.var(1), *torch.var_mean(x), *torch.std_mean(x, 1)),
    "norms": lambda x: [
        torch.linalg.vector_norm(x, n, 1) for n in (0, 1, 2, 3, 2.5, torch.inf, -torch.inf)
    ],
    "sums": lambda x: (x.mean(), (x * 20).sum(1), x.nansum(), (x / 500).prod(1), x.logsumexp(1)),
    "running": lambda x: (x.cumsum(1), (x / 500).cumprod(1), (x / 500).logcumsumexp(1)),
    "similarity": lambda x: F.cosine_similarity(x, x.detach().flip(1), dim=1),
    "distance": lambda x: F.pairwise_distance(x, x.detach().flip(1)),
    "normalized": lambda x: (F.normalize(x), F.layer_norm(x, (3,)), F.rms_norm(x, (3,))),
    "windows": lambda x: (
        F.avg_pool1d(x.repeat(1, 30)[None], 80),
        F.avg_pool2d(x.repeat(10, 30)[None], 20),
    ),
    "exponentials": lambda x: ((x / 100).softmax(1), (x / 100).log_softmax(1)),
    "added": lambda x: (
        torch.addmm(x, x[:, :2], x.detach(), beta=0.5, alpha=1e-3),
        torch.addbmm(x, x[None, :, :2], x[None].detach(), alpha=1e-3),
    ),
    "scattered": lambda x: (x[:1] * 0).scatter_add(
        1, torch.zeros(1, 999).long(), x[:1].tile(1, 333)
    ),
    "scattered means": lambda x: (x[:1] * 0).scatter_reduce(
        1, torch.zeros(1, 99).long(), x[:1].tile(1, 33) / 99, "mean", include_self=False
    ),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("function", SUMS.values(), ids=SUMS)
def test_sums_of_16_bits_are_in_single_precision(function, dtype):
    check(function, LARGE.to(dtype))


def test_functions_of_16_bits_equal_those_of_32():
    """Torch rounds more often than these do, in what local_response_norm is made of, say."""
    functions = F.gelu, torch.sigmoid, F.silu, torch.rsqrt, torch.lgamma
    check(lambda x: [f(x.abs() / 99) for f in functions], LARGE.half(), rtol=4e-3)
    check(lambda x: F.local_response_norm(x, 2), LARGE[None].half(), rtol=4e-3)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_many_ones_of_16_bits_are_counted(dtype):
    """Torch loses them on the CPU alone, for all but scatter_add."""
    place = torch.zeros(4096, dtype=torch.int64)
    none, ones = torch.zeros(1, dtype=dtype), torch.ones(4096, dtype=dtype)
    found = xla(
        lambda none, ones: (
            none.scatter_add(0, place, ones),
            none.index_add(0, place, ones),
            none.index_put((place,), ones, accumulate=True),
            none.put(place, ones, accumulate=True),
        )
    )(in_jax(none), in_jax(ones))
    assert [float(x[0]) for x in found] == [4096.0] * 4
    slope = jax.grad(lambda w: xla(F.embedding)(in_jax(place), w).sum())(in_jax(none)[:, None])
    assert slope[0, 0] == 4096


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_random_numbers_of_16_bits_are_below_1(dtype):
    found = xla(lambda: torch.rand(20000, dtype=dtype))(rng=jax.random.key(0))
    assert found.min() == 0
    assert 0.99 < found.max() < 1
    assert abs(found.astype("float32").mean() - 0.5) < 0.02


WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_divisors_of_the_least_integer_end(dtype):
    if dtype.itemsize == 1:
        x = torch.arange(256).to(dtype)
    else:
        info = torch.iinfo(dtype)
        row = [info.min, info.min + 1, -12, 0, 1, 12, 96, info.max - 1, info.max, info.max // 3]
        x = torch.tensor(row, dtype=dtype)
    if dtype.itemsize > 2:  # which torch divides by -1, and is ended by the processor
        assert xla(torch.gcd)(in_jax(x[-4]), in_jax(x[0])) == -32
        assert xla(torch.gcd)(in_jax(x[-2]), in_jax(x[0])) == -1
        x = x[1:]
    check(lambda x, y: (torch.gcd(x, y), torch.lcm(x, y)), x[:, None], x)


FAR = [-2.5, -1e-10, -40.75, -2000.3, -30000000.0, -1e10, -torch.inf, torch.nan, 0.0, -0.0, 2.5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_zeta_far_below_0_ends(dtype):
    x = torch.tensor(FAR, dtype=dtype)
    zeta = lambda x: [
        torch.special.zeta(torch.tensor(n), x) for n in (2.0, 3.0, 6.0, 2.5, 1.0, 0.5)
    ]
    check(lambda x: (*zeta(x.detach()), torch.polygamma(2, x)), x, rtol=2e-5)
    check(lambda x: (torch.digamma(x), torch.lgamma(x)), x, rtol=2e-5)


def test_zeta_far_below_0_is_a_sum():
    """Of Hurwitz's terms, which torch adds up one by one; it loses them in single precision."""
    q = -3e5 - 0.25
    terms = (q + np.arange(600_000)) ** -3.0
    found = xla(lambda x: torch.polygamma(2, x))(jnp.float64(q))
    np.testing.assert_allclose(found, -2 * terms.sum(), rtol=1e-9)


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_powers_of_integers_use_all_bits(dtype):
    x = torch.tensor([[0], [1], [-1], [2], [-3], [7]]).to(dtype)
    y = torch.tensor([0, 1, 5, 63, 64, 100, 127, -1, -2]).to(dtype)
    check(lambda x, y: (x**y, x**40, 3 ** x.abs(), torch.pow(2, y)), x, y)


LIMITS = [(-3, 3, 4), (-5, 2, 6), (0, -7, 5), (0.0, 9.9, 5), (-2.5, 2.5, 4), (3, 8, 1), (1, 2, 0)]


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_ranges_of_integers_are_cut_off(dtype):
    some = LIMITS if dtype.is_signed else [row for row in LIMITS if min(row) >= 0]
    check(lambda x: [torch.linspace(*row, dtype=dtype) for row in some], torch.ones(()))
    check(lambda x: torch.logspace(0, 2, 5, dtype=dtype), torch.ones(()))
    if dtype.is_signed:
        check(lambda x: torch.logspace(-2, 2, 6, dtype=dtype), torch.ones(()))


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, torch.inf])
def test_distances_have_gradients(order):
    x, y = LARGE[:, :2] / 999, torch.tensor([[900.0, 1100.0], [0.0, -250.0]]) / 999
    check(lambda x, y: torch.cdist(x, y, order), x, y, rtol=1e-5)


@pytest.mark.parametrize("right", [False, True])
def test_what_is_sorted_may_hold_nan(right):
    nan = torch.nan
    x = torch.tensor([[2.5, nan, -1.0, 3.0, 1.0, 9.0]])
    rows = torch.tensor([[1.0, 3.0, nan], [1.0, 2.0, 3.0], [nan, nan, nan]])
    where = lambda row, x: torch.searchsorted(row, x, right=right)
    check(where, rows, x.expand(3, 6).contiguous())
    for row in (*rows, torch.tensor([1.0, 3.0, 4.0, 9.0, nan, nan]), rows[0, :0]):
        check(where, row, x)
        check(lambda row: where(row, 2.5), row)
        check(lambda row, x: torch.bucketize(x, row, right=right), row, x)
    check(where, torch.tensor([[1, 2, 2, 7]]).short(), torch.tensor([[2, 0, 9]]).short())


def test_numbers_without_axes_are_compared_in_the_precision_of_others():
    x = torch.tensor([0.1, 0.2], dtype=torch.float64)
    z = torch.tensor(0.1 + 0j, dtype=torch.complex64)
    check(lambda x, z: (x == z, x != z.to(torch.complex128), x.float() == z), x, z)
    check(lambda x, z: x.float() == z, x, z.to(torch.complex128))
    check(lambda n, z: n == z, torch.tensor([0, 1]), z)


def test_edges_of_functions():
    x = torch.tensor([torch.nan, -0.0, 0.0, 2.0, -torch.inf])
    check(lambda x: torch.heaviside(x.detach(), x.detach() * 0 + 0.5), x)
    check(lambda x: (torch.sign(x > 0), torch.sgn(x > 0)), x)
    check(lambda x: (torch.median(x[:0]), torch.median(x[:0].half())), x)
    z = torch.tensor([0j, 1 + 2j])
    check(lambda z: (z**0, torch.pow(z, z), torch.pow(z, 2 * z.real)), z)


def test_pooling_of_no_examples_has_a_gradient():
    x = torch.zeros(0, 2, 6)
    check(lambda x: (F.max_pool1d(x, 2), F.avg_pool1d(x, 2), F.max_pool2d(x[:, None], 2)), x)


def test_attention_shares_heads():
    q, k, v = (torch.randn(2, h, 3, 4, generator=GENERATOR) for h in (6, 2, 2))
    attention = lambda *xs: F.scaled_dot_product_attention(*xs, enable_gqa=True, is_causal=True)
    check(attention, q, k, v, rtol=1e-4)
    check(lambda k, q, v: attention(q, k, v), k, q, v, rtol=1e-4)
    check(lambda v, q, k: attention(q, k, v), v, q, k, rtol=1e-4)


def test_windows_do_not_see_what_is_outside_of_them():
    x = torch.tensor([[[1.0, 2.0, 4.0, 7.0, torch.inf], [3.0, torch.nan, 5.0, 8.0, 0.5]]])
    check(lambda x: F.adaptive_avg_pool1d(x, 3), x)
    check(lambda x: F.adaptive_avg_pool2d(x, (3, 4)), x)
    check(lambda x: F.adaptive_avg_pool3d(x[None], (1, 2, 2)), x)
    check(lambda x: F.interpolate(x, size=7, mode="area"), x)
