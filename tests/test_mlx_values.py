"""Functions of MLX that leave the graph, whose derivatives would be 0 without a word."""

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2jax, mlx2torch

X = torch.tensor([0.3, -1.25, 0.7])
LOST = {
    "NumPy": lambda x: mx.array(np.sin(np.array(x))),
    "item": lambda x: mx.array(x.sum().item() ** 2),
    "tolist": lambda x: mx.array([v * v for v in x.tolist()]),
    "a Python number": lambda x: float(x[0]) * 3.0,
    "in the middle": lambda x: mx.sin(mx.array(np.array(x * x))),
    "one of two": lambda x: (x * x, mx.array(np.array(x) ** 2)),
    "no shift": lambda x: mx.array(np.array(x) - np.array(x).mean()),
}


TEXT = r"changes with its array 0.*NumPy and \.item\(\)"


@pytest.mark.parametrize("f", LOST.values(), ids=LOST)
def test_what_leaves_the_graph_is_refused(f):
    bridged = mlx2torch(f)
    for expected in (bridged(X), bridged(2 * X)):  # values are no trouble
        assert torch.utils._pytree.tree_all(lambda y: y.isfinite().all(), expected)
    x = X.clone().requires_grad_()
    with pytest.raises(bridge.NoRuleError, match=TEXT):
        torch.utils._pytree.tree_leaves(bridged(x))[-1].sum().backward()
    with pytest.raises(bridge.NoRuleError, match=TEXT):
        torch.func.jvp(bridged, (X,), (X,))


def test_what_leaves_the_graph_is_refused_in_jax():
    jax = pytest.importorskip("jax")
    x = np.float32([0.5, 2.0])
    f = mlx2jax(LOST["NumPy"])
    np.testing.assert_allclose(f(x), np.sin(x), rtol=1e-6)
    for slope in (jax.grad(lambda x: f(x).sum()), jax.jit(jax.grad(lambda x: f(x).sum()))):
        with pytest.raises(Exception, match=TEXT):
            jax.block_until_ready(slope(x))


@pytest.mark.parametrize("at", [0, 1])
def test_each_argument_has_a_graph_or_is_refused(at):
    f = mlx2torch(lambda x, w: x * mx.array(np.cos(np.array(w))))
    x, w = X.clone(), X.cos()
    (x, w)[at].requires_grad_()
    y = f(x, w)
    if at == 0:
        y.sum().backward()
        torch.testing.assert_close(x.grad, w.cos())
    else:
        with pytest.raises(bridge.NoRuleError, match="changes with its array 1"):
            y.sum().backward()


def numpy_inside(x):
    function = mx.custom_function(lambda x: mx.array(np.sin(np.array(x))))
    function.vjp(lambda x, c, y: c * mx.cos(x))
    return function(x)


ZERO = torch.zeros(3)
KEPT = {
    "stopped": (lambda x: mx.stop_gradient(x * x), lambda x: ZERO),
    "stopped, and looks": (
        lambda x: mx.stop_gradient(x * x) if x.sum().item() < 9 else x,
        lambda x: ZERO,
    ),
    "a constant": (lambda x: mx.ones(3) if x.sum().item() < 9 else x, lambda x: ZERO),
    "a threshold": (lambda x: x * x if x[0].item() > 0 else x, lambda x: 2 * x),
    "rounded": (lambda x: mx.array(np.array(x) > 0).astype(mx.float32), lambda x: ZERO),
    "a rule of its own": (numpy_inside, lambda x: x.cos()),
    "random numbers": (
        lambda x: x * 2 + (mx.random.normal((3,)) if x[0].item() > 0 else 0),
        lambda x: 2 + ZERO,
    ),
    "random numbers alone": (
        lambda x: mx.random.normal((3,)) if x[0].item() > 0 else x,
        lambda x: ZERO,
    ),
    "no number": (lambda x: mx.array(np.full(3, np.nan * x[0].item(), np.float32)), lambda x: ZERO),
}


@pytest.mark.parametrize(("f", "expected"), KEPT.values(), ids=KEPT)
def test_what_is_rightly_zero_stays(f, expected):
    x = X.clone().requires_grad_()
    mlx2torch(f)(x).sum().backward()
    torch.testing.assert_close(x.grad, expected(X))
    torch.testing.assert_close(torch.func.jvp(mlx2torch(f), (X,), (X,))[1], expected(X) * X)


def test_second_derivatives_of_functions_that_look_at_values():
    f = mlx2torch(lambda x: (x**3).sum() if x[0].item() > 0 else 3 * x.sum())
    torch.testing.assert_close(torch.func.hessian(f)(X), torch.diag(6 * X))
    torch.testing.assert_close(torch.func.hessian(f)(-X), torch.zeros(3, 3))
    lost = mlx2torch(lambda x: (x * mx.array(np.array(x))).sum())
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(lost(x), x, create_graph=True)
    torch.testing.assert_close(slope, X)  # what MLX says, and torch of a detached factor
    with pytest.raises(bridge.NoRuleError, match=TEXT):
        slope.sum().backward()


def test_batches_of_what_leaves_the_graph():
    rows = torch.stack([X, 2 * X])
    f = mlx2torch(lambda x: x * x if x[0].item() > 0 else mx.array(np.array(x)))
    slope = torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))
    torch.testing.assert_close(slope(rows), 2 * rows)
    with pytest.raises(bridge.NoRuleError, match=TEXT):
        slope(-rows)


def test_wrong_derivatives_of_functions_that_look_at_values_are_refused():
    f = mlx2torch(lambda x: mx.pad(x, 1, constant_values=x[0])[1:4] if x[0].item() > 0 else x)
    x = X.clone().requires_grad_()
    with pytest.raises(bridge.NoRuleError, match=r"wrong derivatives of mx\.pad"):
        f(x).sum().backward()
    x = (-X).clone().requires_grad_()
    f(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(3))
