"""Derivatives that functions of MLX take inside of themselves keep their own derivatives."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

from bridge import mlx2torch
from tests.mlx_functions import ONE, X, leaf


def inner_slope(x):
    slope = mx.grad(lambda x: (x**3).sum())(x)
    mx.eval(slope)
    return slope


def test_a_derivative_that_the_function_evaluates_is_differentiated():
    """MLX alone gives 0 here: see the quirk below."""
    x = leaf()
    mlx2torch(inner_slope)(x).sum().backward()
    torch.testing.assert_close(x.grad, 6 * X)
    torch.testing.assert_close(
        torch.func.jvp(mlx2torch(inner_slope), (X,), (torch.ones(3),))[1], 6 * X
    )


def test_quirk_an_evaluated_derivative_has_none():
    assert mx.vjp(lambda x: [inner_slope(x)], [ONE], [ONE])[1][0].tolist() == [0.0] * 3


def test_what_a_function_captures_keeps_its_gradient():
    """The gradient of an inner transformation has lost its mark, and evaluated its graph."""

    def outer(w):
        captured = mx.grad(lambda z: z * z * z)(w)
        there = mlx2torch(lambda x: x + captured if x.item() == 0 else x)
        assert there(torch.zeros(())).item() == 6.75
        return captured * 2

    assert mx.grad(outer)(mx.array(1.5)).item() == 18


def closing_over_first(x):
    """A derivative that closes over `x`, then one by it."""
    fixed = mx.grad(lambda z: (z * z * x).sum())(mx.array([1.0, 2.0, 3.0]))
    return fixed + mx.grad(lambda z: (z**3).sum())(x)


def test_quirk_a_derivative_that_was_closed_over_before_has_none():
    x = mx.array([0.3, -1.25, 0.7])
    found = mx.grad(lambda x: closing_over_first(x).sum())(x)
    assert found.tolist() == [2, 4, 6]  # without 6 x


@pytest.mark.parametrize(
    "how", [{"residuals": "save"}, {"residuals": "recompute"}, {"compile": True}], ids=str
)
def test_derivatives_within_the_function_keep_theirs(how):
    f, x = mlx2torch(closing_over_first, **how), torch.tensor([0.3, -1.25, 0.7])
    expected = torch.tensor([2.0, 4.0, 6.0]) + 6 * x
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(f(leaf).sum(), leaf)[0], expected)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (torch.ones(3),))[1], expected)
    twice = torch.func.grad(lambda x: torch.func.grad(lambda x: f(x).sum())(x).sum())(x)
    torch.testing.assert_close(twice, torch.full((3,), 6.0))
