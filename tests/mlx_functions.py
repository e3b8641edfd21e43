"""Functions of MLX, points for them, and every way to bridge them to torch."""

import mlx.core as mx
import pytest
import torch

X = torch.tensor([0.3, -1.25, 0.7])
ROWS = torch.tensor([[0.3, -1.25, 0.7], [1.5, 0.5, -0.25]])
ONE = mx.ones(3)
WAYS = {
    "keeps": {"residuals": "save"},
    "recomputes": {"residuals": "recompute"},
    "compiled": {"compile": True},
}
JACOBIANS = torch.func.jacrev, torch.func.jacfwd
every_way = pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)


def leaf(x=X):
    return x.clone().requires_grad_()


def layer(xp, x):
    return xp.tanh(x * x) * x.sum() + xp.sin(x)


@mx.custom_function
def straight(x):
    return mx.round(x)


@straight.vjp
def _(primals, cotangent, output):
    return 7 * cotangent


def written(x):
    z = x * 1.0
    z[1] = 0.0
    z[2:] = z[2:] * x[2:]
    return z.at[:1].multiply(2.0)


def ruled(rule):
    fn = mx.custom_function(lambda x: x * x)
    fn.vjp(lambda _, cotangent, __: rule(cotangent))
    return lambda x: fn(x)
