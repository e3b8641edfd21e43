"""Floats and complex numbers of 64 bits: narrowed by nobody silently."""

import numpy as np
import pytest

import bridge
from bridge import jax2torch

X = np.array([1 / 3, -1.2, 2 / 7])


def test_float64_is_computed_in_float64(jax, torch):
    x = torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda x: jax.numpy.sin(x) * jax.numpy.exp(x))(x)
    assert y.dtype == torch.float64
    wanted = torch.sin(x) * torch.exp(x)
    torch.testing.assert_close(y, wanted, rtol=1e-13, atol=1e-13)
    cotangent = torch.tensor(X[::-1].copy())
    torch.testing.assert_close(
        torch.autograd.grad(y, x, cotangent),
        torch.autograd.grad(wanted, x, cotangent),
        rtol=1e-12,
        atol=1e-12,
    )


def test_complex128_is_computed_in_complex128(jax, torch):
    z = torch.tensor(X + 1j * X[::-1], requires_grad=True)
    y = jax2torch(lambda z: jax.numpy.exp(z) * z)(z)
    torch.testing.assert_close(y, torch.exp(z) * z, rtol=1e-13, atol=1e-13)
    (found,) = torch.autograd.grad(y.abs().sum(), z)
    (wanted,) = torch.autograd.grad((torch.exp(z) * z).abs().sum(), z)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_global_flag_stays(jax, torch):
    before = jax.config.jax_enable_x64
    inside = []
    there = jax2torch(lambda x: inside.append(jax.config.jax_enable_x64) or x * 2)
    x = torch.tensor(X, requires_grad=True)
    there(x).sum().backward()
    there(x.detach().float())
    assert inside == [True, before]
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.zeros(1).dtype == np.float32


def test_global_flag_stays_after_an_error(jax, torch):
    def fail(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no\b"):
        jax2torch(fail)(torch.tensor(X))
    assert jax.numpy.zeros(1).dtype == np.float32


ASKED = {
    "float32": (None, "float32", np.float32),
    "float64": (None, "float64", np.float64),
    "complex128": (None, "complex128", np.float64),
    "float32, x64=True": (True, "float32", np.float64),
    "float32, x64=False": (False, "float32", np.float32),
    "int32": (None, "int32", np.float32),
    "int64": (None, "int64", np.float32),
    "int64, x64=True": (True, "int64", np.float64),
}


@pytest.mark.parametrize(("x64", "name", "default"), ASKED.values(), ids=ASKED)
def test_default_dtype_inside(jax, torch, x64, name, default):
    seen = []
    there = jax2torch(lambda x: seen.append(jax.numpy.zeros(1).dtype) or x, x64=x64)
    there(torch.ones(2, dtype=getattr(torch, name)))
    assert seen == [default]


@pytest.mark.parametrize("name", ["float64", "complex128"])
def test_x64_false_refuses_to_narrow(jax, torch, name):
    def f(first, second):
        return second

    x = torch.ones(3, dtype=getattr(torch, name))
    with pytest.raises(bridge.ArgumentError, match=rf"argument second of f .*{name}\[3\].*x64"):
        jax2torch(f, x64=False)(torch.ones(2), x)


def test_x64_false_refuses_a_float64_of_numpy(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"argument w of .*float64\[3\].*x64"):
        jax2torch(lambda x, w: x * w, x64=False)(torch.ones(3), X)


def test_float64_of_numpy_asks_for_64_bits(jax, torch):
    found = jax2torch(lambda x, w: x * jax.numpy.sin(w))(torch.ones(3), X)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.sin(X), rtol=1e-13)


def test_global_flag_decides_where_the_arguments_do_not(jax, torch):
    there = jax2torch(lambda x: x + jax.numpy.zeros(3))
    x = torch.ones(3)
    assert there(x).dtype == torch.float32
    with jax.enable_x64(True):
        assert there(x).dtype == torch.float64
    assert there(x).dtype == torch.float32


def test_x64_false_holds_against_the_global_flag(jax, torch):
    there = jax2torch(lambda x: x + jax.numpy.zeros(3), x64=False)
    with jax.enable_x64(True):
        assert there(torch.ones(3)).dtype == torch.float32


@pytest.mark.parametrize("inside", ["forward", "backward"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_flag_that_changes_before_backward(jax, torch, name, inside):
    x = torch.tensor(X, dtype=getattr(torch, name), requires_grad=True)
    there = jax2torch(lambda x: jax.numpy.sin(x) * x)
    with jax.enable_x64(inside == "forward"):
        y = there(x).sum()
    with jax.enable_x64(inside == "backward"):
        (found,) = torch.autograd.grad(y, x)
    assert found.dtype == x.dtype
    (wanted,) = torch.autograd.grad((torch.sin(x) * x).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_float64_result_of_a_float32_argument(jax, torch):
    """The cotangent is wider than the argument whose gradient it becomes."""
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    y = jax2torch(lambda x: x.astype("float64") ** 2, x64=True)(x)
    assert y.dtype == torch.float64
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, 2 * x.detach())


@pytest.mark.parametrize("jit", [True, False])
def test_float64_without_and_with_jit(jax, torch, jit):
    x = torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda x: jax.numpy.sin(x) + jax.numpy.zeros(3), jit=jit)(x)
    torch.testing.assert_close(y, torch.sin(x), rtol=1e-14, atol=1e-14)
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, torch.cos(x.detach()), rtol=1e-14, atol=1e-14)
