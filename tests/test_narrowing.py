"""Integers of 64 bits that torch returns while JAX is in 32-bit mode."""

import numpy as np
import pytest

from bridge import ArgumentError, RangeError, torch2jax
from bridge._core.spec import check_fits_32_bits

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = jnp.array([[0.5, -1.5, 2.0], [3.0, 1.0, -2.0]])
LARGEST = 2**31 - 1
# JAX 0.10 raises a plain ValueError with the same text from a program that has run before.
FAILS = jax.errors.JaxRuntimeError, ValueError, RangeError
WRAPS = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


@torch2jax
def shifted(n, by=0):
    """`n` and more than `n`, as torch counts."""
    return {"sum": n.long() + by, "n": n}


NATIVE = {
    "argmax": (lambda x: x.argmax(1), lambda x: x.argmax(1)),
    "sort": (lambda x: tuple(torch.sort(x, 1)), lambda x: (jnp.sort(x, 1), x.argsort(1))),
    "sum": (lambda x: x.int().sum(), lambda x: x.astype(int).sum()),
    "a number": (lambda x: 3, lambda x: jnp.array(3)),
    "nothing": (lambda x: x[:0].long(), lambda x: x[:0].astype(int)),
    "unsigned": (lambda x: x.abs().to(torch.uint64), lambda x: jnp.abs(x).astype("uint32")),
}


@WRAPS
@pytest.mark.parametrize("capture", ["require", "never"])
@pytest.mark.parametrize(("here", "native"), NATIVE.values(), ids=NATIVE)
def test_integers_of_64_bits_come_in_32(here, native, capture, wrap):
    found, expected = wrap(torch2jax(here, capture=capture))(X), native(X)
    assert _dtypes(found) == _dtypes(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@WRAPS
@pytest.mark.parametrize("value", [LARGEST, -LARGEST - 1])
def test_the_largest_that_fit(value, wrap):
    by = value - 5 * (1 if value > 0 else -1)
    n = jnp.array([5 if value > 0 else -5, 0])
    assert wrap(lambda n: shifted(n, by)["sum"])(n)[0] == value


@WRAPS
@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 2, 2**32, -(2**63)])
def test_those_that_do_not_fit_are_refused(value, wrap):
    f = wrap(lambda n: shifted(n, value)["sum"])
    with pytest.raises(FAILS) as error:
        jax.block_until_ready(f(jnp.array([0, 0, 0])))
    text = str(error.value)
    assert f"result 0 of shifted holds {value}, which does not fit into int32" in text
    assert "call it in 64-bit mode" in text


@pytest.mark.parametrize("value", [2**32, 2**63, 2**64 - 1])
def test_unsigned_integers_that_do_not_fit_are_refused(value):
    f = torch2jax(lambda n: torch.tensor([7, value], dtype=torch.uint64))
    with pytest.raises(FAILS, match=rf"holds {value}, which does not fit"):
        jax.block_until_ready(f(jnp.zeros(2)))


TRANSFORMS = {
    "vmap": lambda f: jax.vmap(f),
    "nested vmap": lambda f: lambda n: jax.vmap(jax.vmap(f))(n[None])[0],
    "vmap along the last axis": lambda f: lambda n: jax.vmap(f, 1, 1)(n),
    "scan": lambda f: lambda n: jax.lax.scan(lambda c, r: (c, f(r)), 0, n)[1],
    "map": lambda f: lambda n: jax.lax.map(f, n),
    "checkpoint": jax.checkpoint,
    "jit within": lambda f: jax.vmap(jax.jit(f)),
    "jvp": lambda f: lambda n: jax.jvp(lambda n, x: (f(n), x), (n, 1.0), (_zero(n), 1.0))[0][0],
}


def _dtypes(tree):
    return [y.dtype for y in jax.tree.leaves(tree)]


def _zero(n):
    return np.zeros(n.shape, jax.dtypes.float0)


@WRAPS
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_no_transformation_skips_the_check(transform, wrap):
    f = wrap(transform(lambda n: shifted(n, LARGEST - 3)["sum"]))
    n = jnp.array([[1, 2, 3], [0, -1, 3]])
    np.testing.assert_array_equal(f(n), np.asarray(n) + LARGEST - 3)
    with pytest.raises(FAILS, match=f"holds {LARGEST + 1}, which does not"):
        jax.block_until_ready(f(n.at[1, 1].set(4)))


def test_an_index_that_the_gradient_needs_is_kept():
    """The backward pass takes the indices of torch, in 64 bits, whatever is delivered."""
    f = torch2jax(lambda x: tuple(torch.sort(x, 1)))

    def loss(h, weights):
        return lambda x: (h(x)[0] ** 2 * weights).sum() + h(x)[1][0, 0]

    weights = jnp.arange(6.0).reshape(2, 3)
    native = lambda x: (jnp.sort(x, 1), x.argsort(1))
    for wrap in (lambda g: g, jax.jit):
        found = wrap(jax.grad(loss(f, weights)))(X)
        np.testing.assert_allclose(found, jax.grad(loss(native, weights))(X), rtol=1e-5)


def test_a_result_that_nobody_uses_is_not_looked_at():
    f = jax.jit(lambda n: shifted(n, 2**40)["n"])
    np.testing.assert_array_equal(f(jnp.arange(3)), np.arange(3))


def test_in_64_bit_mode_nothing_is_narrowed():
    f = torch2jax(lambda x: x.argmax(1) + 2**40)
    with jax.enable_x64(True):
        assert f(X).dtype == np.int64
        np.testing.assert_array_equal(f(X), np.asarray(X).argmax(1) + 2**40)
    with pytest.raises(FAILS, match="does not fit into int32"):
        jax.block_until_ready(f(X))


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_floats_are_never_narrowed(dtype):
    with pytest.raises(
        ArgumentError,
        match=rf"{dtype}\[2,3\], which has no counterpart while JAX is in 32-bit mode",
    ):
        torch2jax(lambda x: x.to(getattr(torch, dtype)))(X)


@pytest.mark.parametrize("value", [-1, 2**32])
def test_a_range_is_checked_at_both_ends(value):
    for row in ((value, 3), (3, value)):
        with pytest.raises(RangeError, match=f"x holds {value}"):
            check_fits_32_bits(*row, "uint32", "x")
    check_fits_32_bits(0, 2**32 - 1, "uint32", "x")
