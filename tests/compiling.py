"""Code that torch compiles, and what it is compared with."""

import importlib

import numpy as np
import pytest
import torch

COMPILED = [
    pytest.mark.usefixtures("fresh_compiler"),
    # Inductor imports torch.utils.mkldnn, whose classes are scripted: torch 2.13 warns of itself.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    # A package of an exported program copies the specs of its trees: torch 2.13 warns of itself.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprec:FutureWarning"),
]
X = torch.tensor([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]])
ROWS = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6], [-0.9, 1.3, 0.2], [0.8, -0.1, 1.7]], "float32")


def counters():
    return importlib.import_module("torch._dynamo.utils").counters


def graphs():
    """How many graphs Dynamo has compiled in this test."""
    return counters()["stats"]["unique_graphs"]


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def rows(count=4):
    return torch.tensor(np.resize(ROWS, (count, 3)) + 0.01 * np.arange(count)[:, None]).float()


def written_for(xp, function):
    """`function` with its array namespace filled in: a closure, which no one can import."""
    return lambda *args, **kwargs: function(xp, *args, **kwargs)


def leaves(x):
    return torch.utils._pytree.tree_leaves(x)


def with_gradients(fn, *xs):
    """The results of `fn`, and the gradients of a weighted sum of those that are differentiable."""
    xs = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in xs]
    results = fn(*xs)
    total = 0
    for i, y in enumerate(leaves(results)):
        if y is not None and y.requires_grad:
            weights = torch.linspace(0.5, 1.5 + i, y.numel(), dtype=y.dtype).reshape(y.shape)
            total = total + (y * weights).sum()
    wanted = [x for x in xs if x.requires_grad]
    return results, torch.autograd.grad(total, wanted, materialize_grads=True)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, check_dtype=False)


def recorded(f, *xs, mode="fake"):
    record = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
    return record(f, tracing_mode=mode)(*[x.detach() for x in xs])
