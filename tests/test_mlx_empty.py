"""Arrays without elements in functions of MLX, where MLX would end the process."""

import signal
import subprocess
import sys

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2torch


def test_quirk_a_gradient_of_an_indexed_array_without_elements_ends_the_process():
    code = """
import mlx.core as mx
mx.eval(mx.grad(lambda x: x[mx.array([1, 0])].sum())(mx.ones((2, 0))))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert process.returncode == -signal.SIGFPE


WAYS = [{}, {"residuals": "save"}, {"residuals": "recompute"}, {"compile": True}]
ROWS_OF_NOTHING = mx.array([1, 0, 1])


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize(
    "f",
    [lambda x, w: (x * w)[ROWS_OF_NOTHING], lambda x, w: (x * w).T[:, ROWS_OF_NOTHING]],
    ids=["rows", "columns"],
)
def test_gradients_of_arrays_without_elements(f, options):
    f = mlx2torch(f, **options)
    x, w = torch.ones(2, 0, requires_grad=True), torch.tensor(2.5, requires_grad=True)
    y = f(x, w)
    assert 0 in y.shape
    y.sum().backward()
    assert x.grad.shape == (2, 0)
    assert w.grad.item() == 0
    per_sample = torch.func.vmap(torch.func.grad(lambda x: f(x, w.detach()).sum()))
    assert per_sample(torch.ones(3, 2, 0)).shape == (3, 2, 0)


def test_what_would_end_the_process_is_refused():
    rows = mx.array([1, 0])
    write = mlx2torch(lambda x: x.at[rows].add(1.0))
    torch.testing.assert_close(write(torch.zeros(2, 3)), torch.ones(2, 3))
    with pytest.raises(bridge.NoRuleError, match="array without elements"):
        write(torch.zeros(2, 0))
    between = mlx2torch(lambda x: x[:, :0][rows].sum(axis=1))
    x = torch.ones(2, 3, requires_grad=True)
    y = between(x)
    torch.testing.assert_close(y.detach(), torch.zeros(2))
    with pytest.raises(bridge.NoRuleError, match="array without elements"):
        y.sum().backward()
