"""Custom functions of MLX: rules of the user win, and what they leave out is refused."""

import functools

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2jax, mlx2torch

X = torch.tensor([0.3, -1.25, 0.7])
W = torch.tensor([1.5, 0.4, 2.5])
T = torch.tensor([1.0, -2.0, 0.5])


def custom(fn, *, vjp=None, jvp=None):
    function = mx.custom_function(fn)
    if vjp:
        function.vjp(vjp)
    if jvp:
        function.jvp(jvp)
    return function


def tangent(f, *xs, directions=None):
    return torch.func.jvp(mlx2torch(f), xs, directions or tuple(T for _ in xs))[1]


# Forward rules: 42 in reverse, 7 forward.

BOTH = custom(lambda x: x * x, vjp=lambda x, c, y: 42 * c, jvp=lambda x, t: 7 * t)
FORWARD = {
    "both rules": (BOTH, lambda x: 7 * T),
    "one rule": (custom(lambda x: x * x, jvp=lambda x, t: 7 * t), lambda x: 7 * T),
    "by the point": (custom(lambda x: x * x, jvp=lambda x, t: x**3 * t), lambda x: x**3 * T),
    "a gradient without its cotangent": (
        custom(lambda x: x * x, vjp=lambda x, c, y: 2 * x, jvp=lambda x, t: 2 * x * t),
        lambda x: 2 * x * T,
    ),
    "within": (lambda x: mx.sin(x) * BOTH(mx.cos(x)), None),
    "made anew at each call": (
        lambda x: custom(lambda x: x, vjp=lambda x, c, y: c, jvp=lambda x, t: 3 * t)(x),
        lambda x: 3 * T,
    ),
    "a partial": (
        custom(lambda x: x, vjp=lambda x, c, y: c, jvp=functools.partial(lambda k, x, t: k * t, 5)),
        lambda x: 5 * T,
    ),
    "in a function that looks at values": (
        lambda x: BOTH(x) if x.sum().item() < 9 else x,
        lambda x: 7 * T,
    ),
}


@pytest.mark.parametrize(("f", "expected"), FORWARD.values(), ids=FORWARD)
def test_a_forward_rule_of_the_user_wins(f, expected):
    native = mx.jvp(lambda x: [f(x)], [mx.array(X)], [mx.array(T)])[1][0]
    found = tangent(f, X)
    np.testing.assert_allclose(found.numpy(), np.array(native), rtol=1e-5)
    if expected:
        torch.testing.assert_close(found, expected(X))


def test_a_forward_rule_of_the_user_wins_in_jax():
    jax = pytest.importorskip("jax")
    x, t = np.float32([0.5, 2.0]), np.float32([1.0, -1.0])
    found = jax.jvp(mlx2jax(BOTH), (x,), (t,))[1]
    np.testing.assert_allclose(found, 7 * t)
    np.testing.assert_allclose(
        jax.jit(jax.jvp, static_argnums=0)(mlx2jax(BOTH), (x,), (t,))[1], 7 * t
    )


def test_each_order_has_the_rule_that_was_written():
    f = mlx2torch(custom(lambda x: x**3, vjp=lambda x, c, y: x**2 * c, jvp=lambda x, t: x * t))
    one = torch.ones(3)
    gradient = lambda x: torch.func.vjp(f, x)[1](one)[0]
    forward = lambda x: torch.func.jvp(f, (x,), (one,))[1]
    torch.testing.assert_close(gradient(X), X**2)
    torch.testing.assert_close(forward(X), X)
    torch.testing.assert_close(torch.func.jvp(gradient, (X,), (T,))[1], 2 * X * T)
    torch.testing.assert_close(torch.func.jvp(forward, (X,), (T,))[1], T)
    torch.testing.assert_close(torch.func.vjp(forward, X)[1](T)[0], T)
    rows = torch.stack([X, W])
    batch = torch.func.vmap(lambda x, t: torch.func.jvp(f, (x,), (t,))[1])(rows, rows.cos())
    torch.testing.assert_close(batch, rows * rows.cos())


def test_a_forward_rule_with_two_arguments():
    f = custom(lambda x, w: x * w, jvp=lambda p, t: sum(3 * each for each in t if each is not None))
    torch.testing.assert_close(tangent(f, X, W), 6 * T)
    one = torch.func.jvp(lambda x: mlx2torch(f)(x, W), (X,), (T,))[1]
    torch.testing.assert_close(one, 3 * T)


def test_functions_with_and_without_forward_rules_are_not_mixed():
    straight = custom(mx.round, vjp=lambda x, c, y: c)
    with pytest.raises(bridge.NoRuleError, match=r"forward rule, .* another .* has none"):
        tangent(lambda x: BOTH(x) + custom(lambda x: mx.round(x), vjp=lambda x, c, y: c)(x), X)
    torch.testing.assert_close(tangent(straight, X), T)


LINEAR = {  # each maps cotangents to what is expected of tangents
    "a factor": (lambda x, c, y: 2 * x * c, lambda t: 2 * X * t),
    "a choice by the point": (lambda x, c, y: mx.where(x > 0, c, 3 * c), lambda t: t * ONE_OR_3),
    "a mean that is taken off": (lambda x, c, y: c - c.mean(), lambda t: t - t.mean()),
    "of lower precision": (lambda x, c, y: (c * x).astype(mx.float16), lambda t: X * t),
    "a branch by the point": (lambda x, c, y: c if x.sum().item() < 9 else -c, lambda t: t),
    "zeros": (lambda x, c, y: mx.zeros_like(x), lambda t: 0 * t),
}
ONE_OR_3 = torch.where(X > 0, 1.0, 3.0)
NOT_LINEAR = {
    "clipped": lambda x, c, y: mx.clip(c, -1, 1),
    "clipped by a norm": lambda x, c, y: c * mx.minimum(1.0, 1 / mx.linalg.norm(c)),
    "clipped, by the point": lambda x, c, y: mx.clip(c, -0.1, 0.1) if x.sum().item() < 9 else c,
    "squared": lambda x, c, y: c * c,
    "signs": lambda x, c, y: mx.sign(c) * x,
    "rounded": lambda x, c, y: mx.round(3 * c),
    "with a stopped gradient": lambda x, c, y: mx.stop_gradient(c) * x,
    "without its cotangent": lambda x, c, y: 2 * x,
    "ones": lambda x, c, y: mx.ones(3),
    "with an addend": lambda x, c, y: 2 * c + x,
}


@pytest.mark.parametrize("kind", LINEAR)
def test_tangents_follow_from_a_linear_rule(kind):
    rule, expected = LINEAR[kind]
    found = tangent(custom(mx.sin, vjp=rule), X)
    torch.testing.assert_close(found, expected(T), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_no_tangents_follow_from_a_rule_that_is_not_linear(kind):
    f = custom(mx.sin, vjp=NOT_LINEAR[kind])
    torch.func.vjp(mlx2torch(f), X)
    with pytest.raises(bridge.NoRuleError, match=r"ignores its cotangent, or is not linear.*jvp"):
        tangent(f, X)
    both = custom(mx.sin, vjp=NOT_LINEAR[kind], jvp=lambda x, t: 7 * t)
    torch.testing.assert_close(tangent(both, X), 7 * T)


def test_operations_without_a_jvp_beside_a_custom_function_are_named():
    """MLX looks for forward rules in the order of the graph, and stops at such an operation."""
    straight, kernel = custom(mx.round, vjp=lambda x, c, y: c), mx.array([[[0.5], [2.0]]])
    f = lambda x: straight(mx.conv1d(x[None, :, None], kernel)).sum()
    with pytest.raises(bridge.NoRuleError, match=r"no derivative of Conv\w+ in forward mode.*jvp"):
        tangent(f, X)
    gradient = torch.func.grad(mlx2torch(f))(X)
    torch.testing.assert_close(gradient, torch.tensor([0.5, 2.5, 2.0]))


def test_a_checkpoint_has_the_tangents_of_its_function():
    torch.testing.assert_close(tangent(mx.checkpoint(lambda x: x**3), X), 3 * X**2 * T)


# Rules that return too few gradients.

FEW = {
    "one of two": lambda p, c, y: (c * p[1],),
    "one of two, bare": lambda p, c, y: c * p[1],
    "none for the second": lambda p, c, y: (c * p[1], None),
    "none for the first": lambda p, c, y: (None, c * p[0]),
    "a number": lambda p, c, y: (c * p[1], 0.0),
    "of NumPy": lambda p, c, y: (c * p[1], np.ones(3, np.float32)),
}


@pytest.mark.parametrize("looks", [False, True], ids=["graph", "looks at values"])
@pytest.mark.parametrize("rule", FEW.values(), ids=FEW)
def test_rules_that_return_too_few_gradients_are_refused(rule, looks):
    product = custom(lambda x, w: x * w, vjp=rule)
    f = mlx2torch(lambda x, w: mx.sin(product(x, w)) * (x.sum().item() if looks else 1))
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    with pytest.raises(bridge.NoRuleError, match=r"rule <lambda> of a custom function.*zeros_like"):
        f(x, w).sum().backward()


UNREDUCED = custom(lambda x, b: x * b, vjp=lambda p, c, y: (c * p[1], c * p[0]))


@pytest.mark.parametrize("residuals", ["recompute", "save"])
def test_gradients_of_another_shape_than_the_argument_are_refused(residuals):
    x, b = X.repeat(2, 1), W.clone().requires_grad_()
    text = r"rule <lambda> of a .*shape \[2, 3\] for argument 1, whose shape is \[3\].*mx\.sum"
    y = lambda: mlx2torch(lambda x, b: UNREDUCED(x, b), residuals=residuals)(x, b)
    with pytest.raises(bridge.NoRuleError, match=text):
        y().sum().backward()
    with pytest.raises(bridge.NoRuleError, match=text):
        torch.func.jvp(mlx2torch(lambda b: UNREDUCED(mx.array(x), b)), (W,), (W,))


def test_gradients_of_another_shape_are_refused_in_jax():
    jax = pytest.importorskip("jax")
    f = mlx2jax(lambda b: UNREDUCED(mx.array(X.repeat(2, 1)), b).sum())
    with pytest.raises(bridge.NoRuleError, match=r"for argument 1, whose shape is \[3\]"):
        jax.jit(jax.grad(f))(jax.numpy.ones(3))


def test_arguments_that_do_not_move_need_no_gradient():
    f = custom(lambda x, i: x[i], vjp=lambda p, c, y: (mx.zeros_like(p[0]).at[p[1]].add(c),))
    at = torch.tensor([2, 0])
    x = X.clone().requires_grad_()
    mlx2torch(f)(x, at).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 0.0, 1.0]))
    g = custom(lambda x, w: x * w, vjp=lambda p, c, y: c * p[1])
    x = X.clone().requires_grad_()
    mlx2torch(lambda x: g(x, mx.array(W)))(x).sum().backward()
    torch.testing.assert_close(x.grad, W)
    x = X.clone().requires_grad_()
    mlx2torch(lambda x: g(x, mx.stop_gradient(x)))(x).sum().backward()
    torch.testing.assert_close(x.grad, X)


def test_arguments_by_keyword_need_a_gradient():
    f = custom(lambda x, *, w: x * w, vjp=lambda x, c, y, *, w: (c * w,))
    w = W.clone().requires_grad_()
    with pytest.raises(bridge.NoRuleError, match="argument 1 of 2"):
        mlx2torch(lambda x, w: f(x, w=w))(X, w).sum().backward()


class Rules:
    def gradient(self, primals, cotangent, output):
        x, w = primals
        return cotangent * w, cotangent * x


def test_rules_of_objects_and_trees_are_read():
    f = custom(lambda x, w: x * w, vjp=Rules().gradient)
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    mlx2torch(f)(x, w).sum().backward()
    torch.testing.assert_close((x.grad, w.grad), (W, X))
    tree = custom(lambda d: d["x"] * d["w"], vjp=lambda d, c, y: {"x": c * d["w"], "w": c * d["x"]})
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    mlx2torch(lambda x, w: tree({"x": x, "w": w}))(x, w).sum().backward()
    torch.testing.assert_close((x.grad, w.grad), (W, X))


# Rules that draw random numbers.


def noisy():
    return custom(lambda x: x * x, vjp=lambda x, c, y: c * mx.random.normal(x.shape))


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_noise_in_a_backward_follows_from_the_key(residuals):
    f = mlx2torch(lambda x: noisy()(x) + 0 * mx.random.normal(x.shape), residuals=residuals)

    def slope(seed):
        x = X.clone().requires_grad_()
        f(x, rng=torch.tensor(seed)).sum().backward()
        return x.grad

    assert slope(3).equal(slope(3))
    assert not slope(3).equal(slope(4))
    alone = mlx2torch(noisy(), residuals=residuals)
    x = X.clone().requires_grad_()
    with pytest.raises(bridge.NoRuleError, match="draws random numbers"):
        alone(x).sum().backward()


def test_noise_in_a_backward_is_not_that_of_the_forward_pass():
    drawn = []

    def both(x):
        drawn.append(mx.random.normal(x.shape))
        return noisy()(x) + drawn[-1]

    f = mlx2torch(both, residuals="recompute")
    x = X.clone().requires_grad_()
    y = f(x, rng=torch.tensor(3))
    y.sum().backward()
    assert not (y - x * x).detach().allclose(x.grad)
    per_example = torch.func.vmap(lambda x, key: torch.func.grad(lambda x: f(x, rng=key).sum())(x))(
        torch.stack([X, X]), torch.tensor([3, 4])
    )
    torch.testing.assert_close(per_example[0], x.grad)
    assert not per_example[1].allclose(x.grad)


def test_noise_in_a_backward_follows_from_the_key_of_jax():
    jax = pytest.importorskip("jax")
    f = mlx2jax(lambda x: noisy()(x) + 0 * mx.random.normal(x.shape))
    slope = jax.grad(lambda x, key: f(x, rng=key).sum())
    x, key = np.float32([0.5, 2.0]), jax.random.key(3)
    first = slope(x, key)
    assert np.array_equal(first, slope(x, key))
    assert np.array_equal(first, jax.jit(slope)(x, key))
    assert not np.array_equal(first, slope(x, jax.random.key(4)))
