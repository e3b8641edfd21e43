"""Bridged functions in what records calls of torch: `torch.jit.trace`, `torch.fx`, and the like."""

import io
import warnings

import pytest
import torch

from bridge import NoRuleError, NoValuesError, jax2torch, mlx2torch

jnp = pytest.importorskip("jax.numpy")
mx = pytest.importorskip("mlx.core")


@pytest.fixture(params=[lambda: jax2torch(jnp.sin), lambda: mlx2torch(mx.sin)], ids=["jax", "mlx"])
def sine(request):
    return request.param()


class Module(torch.nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return self.fn(x) + x


X = torch.tensor([0.3, -1.2])


@pytest.mark.parametrize("called", [False, True], ids=["first", "called before"])
@pytest.mark.parametrize(
    "trace",
    [
        lambda module: torch.jit.trace(module, (X,)),
        lambda module: torch.jit.trace(lambda x: torch.vmap(module)(x), (X,)),
        lambda module: torch.jit.trace(lambda x: torch.func.grad(lambda x: module(x).sum())(x), X),
        lambda module: torch.onnx.export(module, (X,), io.BytesIO(), dynamo=False),
    ],
    ids=["trace", "vmap", "grad", "onnx"],
)
def test_jit_trace_is_refused(sine, trace, called):
    if called:
        sine(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(NoValuesError, match=r"torch\.jit\.trace.*torch\.compile or torch\.exp"):
            trace(Module(sine))
    torch.testing.assert_close(sine(X), X.sin())


def test_symbolic_trace_and_functionalize_are_refused(sine):
    with pytest.raises(NoValuesError, match=r"symbolic_trace.*Use torch\.export"):
        torch.fx.symbolic_trace(Module(sine))
    with pytest.raises(NoRuleError, match="functionalize the code around"):
        torch.func.functionalize(sine)(X)
