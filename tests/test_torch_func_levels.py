"""Tensors that have outlived a transform of `torch.func`, and `torch.no_grad` around one."""

import itertools

import numpy as np
import pytest
import torch

from bridge import jax2torch, mlx2torch

jnp = pytest.importorskip("jax.numpy")
mx = pytest.importorskip("mlx.core")

X, T = [0.3, -1.2], [0.7, 1.9]
SINES = {
    "jax": lambda: jax2torch(jnp.sin),
    "jax save": lambda: jax2torch(jnp.sin, residuals="save"),
    "jax recompute": lambda: jax2torch(jnp.sin, residuals="recompute"),
    "jax without jit": lambda: jax2torch(jnp.sin, jit=False),
    "mlx": lambda: mlx2torch(mx.sin),
    "mlx save": lambda: mlx2torch(mx.sin, residuals="save"),
}
sines = pytest.mark.parametrize("make", SINES.values(), ids=SINES)


def point(values=X, grad=True):
    return torch.tensor(values, requires_grad=grad)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert getattr(found, "requires_grad", None) == getattr(expected, "requires_grad", None)


@sines
def test_a_pullback_is_differentiated_by_the_primals(make):
    x = point()
    _, pull = torch.func.vjp(make(), x)
    for cotangent in (torch.tensor(T), x):
        (gradient,) = pull(cotangent)
        expected = -x.detach().sin() * cotangent.detach()
        if cotangent is x:
            expected = expected + x.detach().cos()
        (found,) = torch.autograd.grad(gradient.sum(), x, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@sines
def test_the_pullback_of_a_pullback_is_differentiated(make):
    def third(f):
        x = point()
        slope = lambda x: torch.func.vjp(f, x)[1](x)[0]
        _, pull = torch.func.vjp(slope, x)
        return torch.autograd.grad(pull(torch.tensor(T))[0].square().sum(), x)[0]

    assert_same(third(make()), third(torch.sin))


@sines
@pytest.mark.parametrize("grad", [True, False])
def test_a_tensor_that_leaves_a_transform_keeps_its_gradient(make, grad):
    def leaving(f, transform):
        x, left = point(), []
        inner = lambda y: (left.append(y), f(y).sum())[1]
        transform(inner, x)
        if not grad:
            with torch.no_grad():
                return f(left[0])
        return torch.autograd.grad((f(left[0]) * x).sum(), x)[0]

    for transform in TRANSFORMS.values():
        assert_same(leaving(make(), transform), leaving(torch.sin, transform))


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(f)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "grad of grad": lambda f, x: torch.func.grad(lambda x: torch.func.grad(f)(x).sum())(x),
    "jvp of grad": lambda f, x: torch.func.jvp(torch.func.grad(f), (x,), (x,)),
    "grad of jvp": lambda f, x: torch.func.grad(lambda x: torch.func.jvp(f, (x,), (x,))[1])(x),
}


def slope(f):
    return lambda x: torch.func.grad(lambda x: f(x).sum())(x)


def tangent(f):
    return lambda x: torch.func.jvp(f, (x,), (x,))[1]


def primal(f):
    return lambda x: torch.func.jvp(f, (x,), (x,))[0]


def pulled(f):
    return lambda x: torch.func.vjp(f, x)[1](x)[0]


def batched(f):
    return torch.func.vmap(f)


def constant(f):
    def call(x):
        with torch.no_grad():
            return f(x)

    return call


def times(f):
    return lambda x: f(x) * x


LEVELS = (slope, tangent, primal, pulled, constant, batched)
STACKS = [
    (name, stack)
    for name, counts in {"jax": (1, 2, 3), "mlx": (1, 2)}.items()
    for count in counts
    for stack in itertools.product(LEVELS, repeat=count)
    if constant in stack and stack.count(batched) < 2
]


@pytest.mark.parametrize(
    ("name", "stack"), STACKS, ids=["-".join([n, *(f.__name__ for f in s)]) for n, s in STACKS]
)
def test_no_grad_counts_at_the_levels_it_was_set_at(name, stack):
    def outcome(f):
        for wrap in (*stack, times):
            f = wrap(f)
        x = point([[0.3], [-1.2]])
        result = f(x)
        (found,) = torch.autograd.grad(result.sum(), x)
        return np.stack([result.detach().numpy(), found.numpy()])

    np.testing.assert_allclose(outcome(SINES[name]()), outcome(torch.sin), rtol=1e-4, atol=1e-5)


@sines
def test_no_tangent_requires_grad_under_no_grad(make):
    x = point()
    with torch.no_grad():
        found = torch.func.jvp(make(), (x,), (x,))
    assert_same(found[0], x.detach().sin())
    assert_same(found[1], (x.cos() * x).detach())
