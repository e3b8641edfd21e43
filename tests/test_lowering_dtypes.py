"""Functions of small dtypes, of NaN and of nothing that XLA compiles, against torch itself."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch

from bridge import torch2jax


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def xla(function):
    return torch2jax(function, lower="xla")


def in_jax(x):
    """An array like a tensor; NumPy has no bfloat16 of its own."""
    dtype = str(x.dtype).removeprefix("torch.")
    return jnp.asarray((x.double() if x.is_floating_point() else x).numpy(), dtype)


def row(results):
    return list(results) if isinstance(results, (list, tuple)) else [results]


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
    theirs = row(function(leaf * 1, *others))
    mine = row(jax.jit(xla(function))(*map(in_jax, xs)))
    for a, b in zip(mine, theirs, strict=True):
        same(a, b.detach(), rtol)
    flowing = [i for i, y in enumerate(theirs) if y.requires_grad]
    if not flowing:
        return
    generator = torch.Generator().manual_seed(5)
    given = [torch.randn(theirs[i].shape, generator=generator) for i in flowing]
    given = [c.to(theirs[i].dtype) for c, i in zip(given, flowing, strict=True)]
    some = lambda x: [row(xla(function)(x, *map(in_jax, others)))[i] for i in flowing]
    (slope,) = jax.vjp(jax.jit(some), in_jax(x))[1](list(map(in_jax, given)))
    (expected,) = torch.autograd.grad([theirs[i] for i in flowing], leaf, given)
    same(slope, expected, rtol)


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
