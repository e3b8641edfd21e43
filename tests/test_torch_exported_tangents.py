"""Tangents of calls in recorded graphs: of the operators `bridge::call` and `bridge::derived`."""

import pytest
import torch
from torch.autograd import forward_ad

from bridge import NoRuleError, jax2torch, mlx2torch

jnp = pytest.importorskip("jax.numpy")
mx = pytest.importorskip("mlx.core")

X, T = torch.tensor([0.3, -1.2]), torch.tensor([0.7, 1.9])


def several(xp):
    def call(x, y, *, power=2):
        return {"a": xp.sin(x) * y, "b": (x**power).sum(), "index": xp.argmax(x), "y": y}

    return call


class Module(torch.nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        results = self.fn(x, x * x)
        return results["a"] * results["b"] + results["index"] + results["y"]


@pytest.fixture(params=["jax", "mlx"])
def modules(request):
    there = jax2torch(several(jnp)) if request.param == "jax" else mlx2torch(several(mx))
    exported = torch.export.export(Module(there), (X,)).module()
    assert any("bridge.call" in str(node.target) for node in exported.graph.nodes)
    return exported, Module(several(torch))


def dual_level(f):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(X, T))).tangent


def reverse_over_dual(f):
    x = X.clone().requires_grad_()
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, T))).tangent
        return torch.autograd.grad(tangent.sum(), x)[0]


def dual_over_reverse(f):
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X.clone().requires_grad_(), T)
        gradient = torch.autograd.grad(f(dual).sum(), dual, create_graph=True)[0]
        return forward_ad.unpack_dual(gradient).tangent


def under_no_grad(f):
    x = X.clone().requires_grad_()
    with torch.no_grad():
        tangent = torch.func.jvp(f, (x,), (T,))[1]
    return torch.autograd.grad((tangent * x).sum(), x)[0]


def jvp(f):
    return lambda x: torch.func.jvp(f, (x,), (T,))[1]


ASKED = {
    "jvp": lambda f: torch.func.jvp(f, (X,), (T,)),
    "jacfwd": lambda f: torch.func.jacfwd(f)(X),
    "forward over forward": lambda f: torch.func.jacfwd(torch.func.jacfwd(f))(X),
    "dual over reverse": dual_over_reverse,
    "dual level": dual_level,
    "reverse over dual": reverse_over_dual,
    "under no_grad": under_no_grad,
    "vmap of jvp": lambda f: torch.func.vmap(jvp(f))(torch.stack([X, T, X * T])),
    "jvp of vmap": lambda f: torch.func.jvp(
        torch.func.vmap(f), (torch.outer(T, X),), (torch.outer(X, T),)
    )[1],
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_exported_programs_have_tangents(modules, ask):
    exported, native = modules
    torch.testing.assert_close(ask(exported), ask(native), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.hessian])
def test_transforms_that_torch_refuses_say_what_to_write(modules, transform):
    exported, _ = modules
    with pytest.raises(NoRuleError, match=r"recorded call.*torch\.autograd\.grad or torch\.func"):
        transform(lambda x: exported(x).sum())(X)
