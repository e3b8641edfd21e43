"""How often a torch function runs that runs anew on each call from JAX: once for a gradient."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch

from bridge import torch2jax

X = jnp.array([0.3, -0.2, 0.5])
XS = jnp.stack([X, 2 * X])


def native(x):
    return jnp.sin(x) * x.sum()


@pytest.fixture
def counted():
    """A function that runs anew, and how often it has."""
    runs = []

    def f(x):
        runs.append(x.sum().item())
        return torch.sin(x) * x.sum()

    return torch2jax(f, capture="never"), runs


USES = {
    "value and gradient": (lambda f: jax.value_and_grad(lambda x: f(x).sum()), X, 1),
    "compiled": (lambda f: jax.jit(jax.value_and_grad(lambda x: f(x).prod())), X, 1),
    "Jacobian": (jax.jacrev, X, 1),
    "compiled Jacobian": (lambda f: jax.jit(jax.jacrev(f)), X, 1),
    "batch": (lambda f: jax.jit(jax.vmap(jax.value_and_grad(lambda x: f(x).sum()))), XS, 2),
    "Jacobians": (lambda f: jax.vmap(jax.jacrev(f)), XS, 2),
    "loop": (
        lambda f: jax.jit(
            jax.grad(lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, None, 90)[0].sum())
        ),
        X,
        90,
    ),
    "checkpoint": (lambda f: jax.jit(jax.grad(lambda x: jax.checkpoint(f)(x).sum())), X, 1),
    "two pullbacks": (lambda f: lambda x: [jax.vjp(f, x)[1](c) for c in (x, 2 * x)], X, 2),
    "one pullback twice": (lambda f: lambda x: [*map(jax.vjp(f, x)[1], (x, 2 * x))], X, 1),
}


@pytest.mark.parametrize(("transform", "x", "count"), USES.values(), ids=USES)
def test_a_gradient_takes_one_run(counted, transform, x, count):
    f, runs = counted
    g = transform(f)
    g(x)  # which looks at what the function returns, on values that are made up
    runs.clear()
    mine = jax.block_until_ready(g(x))
    assert len(runs) == count
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        mine,
        transform(native)(x),
    )


def test_value_and_gradient_are_of_one_sample():
    """As of a device with shots, whose random numbers nobody sees."""
    generator = np.random.default_rng(0)

    def measured(x):
        sample = float(generator.normal())
        return (x * sample).sum()

    f = torch2jax(measured, capture="never")
    for transform in (lambda g: g, jax.jit):
        g = transform(jax.value_and_grad(f))
        for _ in range(3):
            value, slope = g(X)
            np.testing.assert_allclose(slope, np.full(3, value / X.sum()), rtol=1e-5)


def test_a_graph_that_is_gone_is_made_again(counted):
    f, runs = counted
    pulls = [jax.vjp(f, n * X)[1] for n in range(300)]
    for n in (299, 0, 150, 0):
        (slope,) = pulls[n](jnp.ones(3))
        np.testing.assert_allclose(slope, jax.vjp(native, n * X)[1](jnp.ones(3))[0], rtol=1e-4)
    del runs[:]


def test_higher_orders_and_some_of_the_results():
    def f(x, n, w):
        return (x * w.sum()).sin() if x.sum() < 9 else x, n + 1, (w**3).cumsum(0)

    def g(x, n, w):
        return jnp.sin(x * w.sum()), n + 1, jnp.cumsum(w**3)

    h, n, w = torch2jax(f, capture="never"), jnp.arange(2), jnp.array([0.5, -1.5])
    for loss in (
        lambda f: lambda x, w: (f(x, n, w)[0] ** 2).sum(),
        lambda f: lambda x, w: f(x, n, w)[2].prod(),
        lambda f: lambda x, w: f(x, n, w)[2].sum() + f(x, n, w)[0].prod(),
    ):
        for transform in (jax.grad, jax.hessian, lambda g, at: jax.jit(jax.jacfwd(g, at))):
            mine, theirs = (transform(loss(k), (0, 1))(X, w) for k in (h, g))
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), mine, theirs
            )


def test_a_key_gives_the_same_numbers_in_both_halves():
    def f(x):
        return x * torch.randn(3) if x.sum() < 9 else x

    h = torch2jax(f, capture="never")
    keys = jax.random.split(jax.random.key(0))
    for call in (lambda x, key: h(x, rng=key), jax.jit(lambda x, key: h(x, rng=key))):
        y, pull = jax.vjp(lambda x, call=call: call(x, keys[0]), X)
        np.testing.assert_allclose(pull(X)[0], y, rtol=1e-5)
    batch = jax.vmap(jax.grad(lambda x, key: h(x, rng=key).sum()), (None, 0))(X, keys)
    np.testing.assert_allclose(batch, [h(jnp.ones(3), rng=key) for key in keys], rtol=1e-5)
