"""Derivatives of functions of JAX that run anew on each call are those of the call."""

import pytest

pytest.importorskip("jax")

import jax.numpy as jnp

from bridge import jax2mlx, jax2torch


def number():
    held = {"k": 1.0}
    return (lambda: held["k"]), lambda k: held.update(k=k)


def rebound_in_a_closure():
    w = jnp.ones(())

    def change(k):
        nonlocal w
        w = jnp.full((), k)

    return (lambda: w), change


CHANGES = [number, rebound_in_a_closure]


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_each_gradient_in_torch_is_that_of_its_call(make):
    torch = pytest.importorskip("torch")
    read, change = make()
    fn = jax2torch(lambda x: x * x * x * read(), jit=False)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    losses = []
    for k in (1.0, 2.0, 3.0):
        change(k)
        losses.append(fn(x).sum())
    change(5.0)
    (gradient,) = torch.autograd.grad(sum(losses), x, create_graph=True)
    torch.testing.assert_close(gradient, 18 * x.detach() ** 2)
    change(7.0)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, 36 * x.detach())
    assert float(read()) == 7.0


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_each_gradient_in_mlx_is_that_of_its_call(make):
    mx = pytest.importorskip("mlx.core")
    read, change = make()
    fn = jax2mlx(lambda x: x * x * read(), jit=False)

    def loss(x):
        total = mx.zeros(())
        for k in (1.0, 2.0, 3.0):
            change(k)
            total = total + fn(x).sum()
        change(5.0)
        return total

    x = mx.array([0.7, -1.3])
    assert mx.allclose(mx.grad(loss)(x), 12 * x)
    assert mx.allclose(mx.jvp(loss, [x], [x])[1][0], 12 * (x * x).sum())
    assert float(read()) == 5.0


def test_what_a_function_counts_is_counted_once():
    torch = pytest.importorskip("torch")
    count = [0]

    def f(x):
        count[0] += 1
        return x * count[0]

    fn = jax2torch(f, jit=False)
    x = torch.tensor([0.7, -1.3], requires_grad=True)
    y = fn(x)
    start = count[0]
    torch.testing.assert_close(y, start * x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full((2,), float(start)))
    assert count == [start]
