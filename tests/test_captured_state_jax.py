"""Derivatives in JAX of functions of MLX whose captured values change: those of the call."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np

import bridge
from bridge import mlx2jax
from tests.captured_values import number, written_in_place

X = jnp.array([0.7, -1.3])


def rebound():
    arrays = {"w": mx.array(1.0)}
    return (lambda: arrays["w"]), lambda k: arrays.update(w=mx.array(k))


CHANGES = [number, rebound, written_in_place]
VJPS = {
    "eager": lambda f: jax.vjp(f, X),
    "jit": lambda f: jax.vjp(jax.jit(f), X),
    "vmap": lambda f: jax.vjp(jax.vmap(f), X),
}


@pytest.mark.parametrize("way", VJPS)
@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_each_pullback_is_that_of_its_call(make, way):
    read, change = make()
    bridged = mlx2jax(lambda x: x * x * mx.mean(mx.array(read())))
    pulls = []
    for k in (1.0, 2.0, 3.0):
        change(k)
        y, pull = VJPS[way](bridged)
        np.testing.assert_allclose(jax.block_until_ready(y), k * X**2, rtol=1e-6)
        pulls.append((k, pull))
    change(5.0)
    for k, pull in pulls:
        np.testing.assert_allclose(pull(jnp.ones(2))[0], 2 * k * X, rtol=1e-6)
    assert mx.array(read()).tolist() in (5.0, [5.0, 5.0])


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_tangents_and_second_derivatives_are_those_of_the_call(make):
    read, change = make()
    bridged = mlx2jax(lambda x: x * x * x * mx.mean(mx.array(read())))
    change(2.0)
    y, push = jax.linearize(bridged, X)
    slope, curve = jax.vjp(jax.grad(lambda x: bridged(x).sum()), X)
    jax.block_until_ready((y, slope))
    change(7.0)
    np.testing.assert_allclose(push(jnp.ones(2)), 6 * X**2, rtol=1e-5)
    np.testing.assert_allclose(curve(jnp.ones(2))[0], 12 * X, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(bridged, (X,), (X,))[1], 21 * X**3, rtol=1e-5)


def test_what_a_function_counts_is_of_its_call_and_counted_once():
    count = [0]

    def f(x):
        count[0] += 1
        return x * count[0]

    bridged = mlx2jax(f)
    y, pull = jax.vjp(bridged, X)
    z, second = jax.vjp(jax.jit(bridged), X)
    np.testing.assert_allclose(jnp.stack([y, z]), jnp.stack([X, 2 * X]), rtol=1e-6)
    np.testing.assert_allclose(pull(jnp.ones(2))[0], jnp.ones(2))
    np.testing.assert_allclose(second(jnp.ones(2))[0], 2 * jnp.ones(2))
    value, tangent = jax.jvp(bridged, (X,), (X,))
    np.testing.assert_allclose(jnp.stack([value, tangent]), jnp.stack([3 * X, 3 * X]), rtol=1e-6)
    assert count == [3]


def test_steps_of_a_scan_keep_their_states():
    count = [0]

    def f(x):
        count[0] += 1
        return x * count[0]

    bridged = mlx2jax(f)
    loss = lambda x: jax.lax.scan(lambda y, _: (bridged(y), None), x, length=4)[0].sum()
    value, gradient = jax.value_and_grad(loss)(X)
    np.testing.assert_allclose(value, 24 * X.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, 24 * jnp.ones(2), rtol=1e-6)


def test_a_state_that_is_not_kept_any_longer_is_refused():
    arrays = {"w": mx.ones((1 << 22,))}
    bridged = mlx2jax(lambda x: x * x * mx.mean(arrays["w"]))
    pull = jax.vjp(bridged, X)[1]
    for k in range(8):
        arrays["w"] = mx.full((1 << 22,), float(k))
        jax.block_until_ready(jax.vjp(bridged, X)[0])
    with pytest.raises(bridge.ArgumentError, match=r"captures has changed too often since the"):
        pull(jnp.ones(2))


def test_trial_runs_leave_no_trace():
    best = [float("inf")]

    def run(x):
        best[0] = min(best[0], x.sum().item())
        return x * best[0]

    x = jnp.array([200.0, 400.0])
    y, pull = jax.vjp(mlx2jax(run), x)
    np.testing.assert_allclose(y, 600 * x)
    np.testing.assert_allclose(pull(jnp.ones(2))[0], 600 * jnp.ones(2))
    assert best == [600.0]
