"""Gradient rules of custom functions of MLX, in batches and on values."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2torch
from tests.mlx_functions import ruled


@pytest.mark.parametrize("how", [{"residuals": "save"}, {"residuals": "recompute"}], ids=str)
def test_a_batch_of_a_custom_function_keeps_its_gradient(how):
    f = mlx2torch(ruled(lambda cotangent: cotangent * 100), **how)
    x = torch.randn(3, 2, requires_grad=True)
    torch.func.vmap(f)(x).sum().backward()
    expected = torch.full((3, 2), 100.0)
    torch.testing.assert_close(x.grad, expected)
    x = x.detach()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(x), expected)
    ones = torch.ones(3, 2)
    torch.testing.assert_close(torch.func.jvp(torch.func.vmap(f), (x,), (ones,))[1], expected)


def clipped(cotangent):
    norm = mx.sqrt((cotangent * cotangent).sum()).item()
    return cotangent / norm if norm > 1 else cotangent


def evaluated(cotangent):
    half = cotangent / 6
    mx.eval(half)
    return half


@pytest.mark.parametrize("rule", [clipped, evaluated])
@pytest.mark.parametrize("how", [{}, {"residuals": "save"}, {"residuals": "recompute"}], ids=str)
def test_a_gradient_rule_may_look_at_its_cotangent(rule, how):
    x = torch.ones(4, requires_grad=True)
    mlx2torch(ruled(rule), **how)(x).backward(torch.full((4,), 3.0))
    torch.testing.assert_close(x.grad, torch.full((4,), 0.5))


def test_rules_that_draw_are_refused():
    f = mlx2torch(ruled(lambda cotangent: cotangent * mx.random.normal(cotangent.shape)))
    with pytest.raises(bridge.NoRuleError, match=r"rule of a custom function in .* draws"):
        f(torch.ones(3, requires_grad=True)).sum().backward()
