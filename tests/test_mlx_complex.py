"""Derivatives of complex numbers in MLX: refused where MLX has them wrong."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2torch
from tests.mlx_functions import X, leaf, straight

Z = torch.tensor([1 + 2j, 0.5 - 1j])
POWERS = {
    "power": lambda z: z**2,
    "within": lambda z: mx.abs((mx.real(z) * 1j + 1) ** 2),
    "cumprod": mx.cumprod,
    "of a custom function": lambda z: straight(mx.abs(z)) * z**2,
}


@pytest.mark.parametrize("function", POWERS.values(), ids=POWERS)
def test_gradients_of_complex_powers_are_refused(function):
    with pytest.raises(bridge.NoRuleError, match=r"wrong gradients of (Power|CumProd) for complex"):
        mlx2torch(function)(leaf(Z)).abs().sum().backward()


def test_derivatives_of_complex_signs_are_refused():
    text = r"wrong gradients of Sign for complex.*Write mx\.sqrt"
    length = mlx2torch(mx.abs)
    z = leaf(Z)
    (slope,) = torch.autograd.grad(length(z).sum(), z, create_graph=True)
    torch.testing.assert_close(slope, Z / Z.abs())
    with pytest.raises(bridge.NoRuleError, match=text):
        slope.real.sum().backward()
    with pytest.raises(bridge.NoRuleError, match=text):
        torch.func.jvp(mlx2torch(mx.sign), (Z,), (Z,))
    again = mlx2torch(lambda z: mx.sqrt(mx.real(z * mx.conj(z))))
    curved = lambda f: torch.func.hessian(lambda x: f(x * Z).sum())(X[:2])
    torch.testing.assert_close(curved(again), curved(torch.abs))


def test_quirk_derivatives_of_complex_signs_are_zero():
    z = mx.array([1 + 2j])
    assert mx.vjp(lambda z: [mx.sign(z)], [z], [z])[1][0].item() == 0
    assert mx.jvp(lambda z: [mx.sign(z)], [z], [1j * z])[1][0].item() == 0


def test_values_and_tangents_of_complex_powers_are_right():
    found = torch.func.jvp(mlx2torch(lambda z: z**2), (Z,), (Z * 1j,))
    torch.testing.assert_close(found, (Z * Z, 2j * Z * Z))


def test_real_powers_in_complex_functions_have_gradients():
    z, native = leaf(Z), leaf(Z)
    mlx2torch(lambda z: mx.abs(z) ** 3)(z).sum().backward()
    (native.abs() ** 3).sum().backward()
    torch.testing.assert_close(z.grad, native.grad)


def test_quirk_gradients_of_complex_powers():
    z = mx.array([1 + 2j])
    (found,) = mx.vjp(lambda z: [z**2], [z], [mx.ones(1).astype(mx.complex64)])[1]
    assert found.item() != pytest.approx(2 - 4j)


COMPLEX_INSIDE = {
    "products": lambda x: mx.real(mx.cumprod(x * (1 + 2j) + 1j)),
    "a power beside what has no tangents": lambda x: (
        mx.imag((x[None, :, None] * (1 + 2j)) ** 2.5)
        + mx.conv1d(x[None, :, None], mx.ones((1, 1, 1)))
    ),
    "sums of exponentials": lambda x: mx.abs(mx.logcumsumexp(x * (1 + 2j))),
}


@pytest.mark.parametrize("f", COMPLEX_INSIDE.values(), ids=COMPLEX_INSIDE)
def test_derivatives_that_mlx_has_wrong_inside_are_refused(f):
    f, x = mlx2torch(f), torch.tensor([0.3, -1.25, 0.7])
    with pytest.raises(bridge.NoRuleError, match="wrong gradients"):
        torch.func.jvp(f, (x,), (x,))
    with pytest.raises(bridge.NoRuleError, match="wrong gradients"):
        torch.func.grad(lambda x: f(x).sum())(x)
