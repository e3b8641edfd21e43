"""Tangents of functions of MLX, also where MLX has none or wrong ones."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

from bridge import mlx2torch
from tests.mlx_functions import JACOBIANS, ONE, X, leaf, straight


def convolved(x, w):
    return torch.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


PUSHED = {
    "convolution": (lambda x, w: mx.conv2d(x, w), convolved, [(1, 5, 5, 2), (3, 2, 2, 2)]),
    "irfft of odd size": (
        lambda x: mx.fft.irfft(x * (1 + 2j), 5),
        lambda x: torch.fft.irfft(x * (1 + 2j), 5),
        [(3,)],
    ),
    "cumprod": (mx.cumprod, lambda x: torch.cumprod(x, 0), [(4,)]),
    "cummax": (mx.cummax, lambda x: torch.cummax(x, 0)[0], [(4,)]),
    "scatter": (
        lambda x, y: x.at[mx.array([0, 0])].add(y),
        lambda x, y: x.index_add(0, torch.tensor([0, 0]), y),
        [(4,), (2,)],
    ),
}


@pytest.mark.parametrize(("function", "native", "shapes"), PUSHED.values(), ids=PUSHED)
def test_forward_mode_where_mlx_has_none_or_a_wrong_one(function, native, shapes):
    random = torch.Generator().manual_seed(0)
    xs, vs = ([torch.randn(s, generator=random) for s in shapes] for _ in range(2))
    found = torch.func.jvp(mlx2torch(function), tuple(xs), tuple(vs))
    torch.testing.assert_close(found, torch.func.jvp(native, tuple(xs), tuple(vs)))


def test_forward_mode_of_a_custom_function_follows_its_gradient():
    f = mlx2torch(straight)
    x = leaf()
    f(x).sum().backward()
    assert x.grad.tolist() == [7.0] * 3
    assert torch.func.jvp(f, (X,), (torch.ones(3),))[1].tolist() == [7.0] * 3


def test_quirk_forward_mode_knows_nothing_of_custom_gradients():
    tangent = mx.jvp(lambda x: [straight(x)], [ONE], [ONE])[1][0]
    assert tangent.tolist() != [7.0] * 3


def test_quirk_no_forward_mode_of_convolutions():
    x = mx.ones((1, 4, 1))
    with pytest.raises(ValueError, match="Primitive::jvp"):
        mx.jvp(lambda x: [mx.conv1d(x, mx.ones((1, 2, 1)))], [x], [x])


def test_quirk_forward_mode_of_irfft_of_odd_size():
    z = mx.array([1 + 2j, 0.5, 1j])
    (value,), (tangent,) = mx.jvp(lambda z: [mx.fft.irfft(z, 5)], [z], [z])
    assert (value.shape, tangent.shape) == ((5,), (4,))


def test_forward_mode_of_sums_with_factors():
    c, a, b = torch.randn(2, 2), torch.randn(2, 3), torch.randn(3, 2)
    f = mlx2torch(lambda c, a, b: mx.addmm(c, a, b, alpha=2.0, beta=3.0))
    native = lambda c, a, b: torch.addmm(c, a, b, alpha=2.0, beta=3.0)
    found, expected = (torch.func.jacfwd(fn, argnums=(0, 1, 2))(c, a, b) for fn in (f, native))
    torch.testing.assert_close(found, expected)


def test_sums_of_exponentials_of_real_numbers():
    f, x = mlx2torch(mx.logcumsumexp), torch.tensor([0.3, -1.25, 0.7])
    native = lambda x: torch.logcumsumexp(x, 0)
    for jacobian in JACOBIANS:
        torch.testing.assert_close(jacobian(f)(x), jacobian(native)(x))
