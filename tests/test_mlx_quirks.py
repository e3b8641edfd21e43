"""Quirks of MLX 0.32.4 that the source of MLX works around; each test fails when one is gone."""

import io
import re

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

from bridge import mlx2torch
from bridge._sources.mlx.graph_summary import ALLOCATING
from tests.mlx_functions import ONE, ROWS, leaf


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_quirk_an_output_that_is_stopped_shifts_cotangents(residuals):
    f = lambda x: [mx.stop_gradient(x), 2 * x]
    assert mx.vjp(f, [ONE], [5 * ONE, ONE])[1][0].tolist() == [10.0] * 3
    x = leaf()
    g = mlx2torch(lambda x: (mx.stop_gradient(x), 2 * x), residuals=residuals)
    stopped, twice = g(x)
    (5 * stopped + twice).sum().backward()
    assert x.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_quirk_the_second_cotangent_of_one_array_is_lost(residuals):
    def f(x):
        y = 2 * x
        return [y, y]

    assert mx.vjp(f, [ONE], [ONE, 10 * ONE])[1][0].tolist() == [2.0] * 3
    x = leaf()
    one, other = mlx2torch(f, residuals=residuals)(x)
    (one + 10 * other).sum().backward()
    assert x.grad.tolist() == [22.0] * 3


BLOCK = mx.array([[1.0, -2.0], [0.5, 3.0]])
OPERATIONS = {
    "Add": lambda x: x + 0,
    "AddMM": lambda x: mx.addmm(x, x, mx.eye(2), beta=0.0),
    "Divide": lambda x: x / 1,
    "Matmul": lambda x: x @ mx.eye(2),
    "Multiply": lambda x: x * 1,
    "Negative": lambda x: -x,
    "Select": lambda x: mx.where(mx.array([[True]]), x, x),
    "Subtract": lambda x: x - 0,
}


@pytest.mark.parametrize("name", sorted(ALLOCATING))
@pytest.mark.parametrize(
    "x", [BLOCK, BLOCK.T, mx.broadcast_to(BLOCK[0, 0], (2, 2))], ids=["rows", "columns", "one"]
)
def test_quirk_some_operations_never_share_memory(x, name):
    y, text = OPERATIONS[name](x), io.StringIO()
    mx.export_to_dot(text, y)
    assert re.findall(r'label ="(\w+)"', text.getvalue())[-1] == name
    mx.eval(x, y)
    assert not np.shares_memory(np.array(x, copy=False), np.array(y, copy=False))


def test_quirk_compiled_functions_return_one_array_twice():
    twice = mx.compile(lambda x: [x @ BLOCK, x @ BLOCK])
    y, z = (np.array(y, copy=False) for y in twice(BLOCK[0]))
    assert np.shares_memory(y, z)


def test_quirk_the_axis_of_one_array_is_moved_twice():
    twice = lambda x: (lambda y: (y, y))((x * 2)[mx.array([2])])
    assert [y.shape for y in mx.vmap(twice)(mx.array(ROWS))] == [(2, 1), (1, 2)]
    found = torch.func.vmap(mlx2torch(twice))(ROWS)
    expected = 2 * ROWS[:, 2:]
    torch.testing.assert_close(found, (expected, expected))


def test_quirk_integers_get_gradients():
    assert mx.vjp(lambda i: [i * 0.5], [mx.array([4])], [mx.ones(1)])[1][0].dtype == mx.int32
    x, i = leaf(), torch.tensor([2, 0, 1])
    y, n = mlx2torch(lambda x, i: (x[i] * i, i + 1))(x, i)
    assert not n.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 2.0]


def test_quirk_compiled_gradients_are_computed_with_the_outputs():
    def both(x, c):
        return [*mx.vjp(lambda x: [mx.exp((x * mx.tanh(x)).sum())], [x], [c])]

    memory = np.zeros((), np.float32)
    cotangent = mx.array(memory)
    (output,), (gradient,) = mx.compile(both)(ONE, cotangent)
    mx.eval(output)
    np.asarray(cotangent)[...] = 1
    assert gradient.tolist() == [0.0] * 3
