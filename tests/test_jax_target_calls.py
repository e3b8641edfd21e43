"""Calls of functions of torch from JAX: trees, static arguments, and results that are refused."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch
from jax import lax

from bridge import ArgumentError, torch2jax
from tests.records import recorder

X = np.array([0.5, -1.5, 2.0], np.float32)
W = {"scale": np.float32([1.5, -0.5, 2.0]), "shift": np.float32(0.25)}


def bridged(fn, static=((), ())):
    return torch2jax(fn, static_argnums=static[0], static_argnames=static[1])


def model(xp):
    def apply(w, x, *, power=1):
        y = xp.tanh(w["scale"] * x + w["shift"])
        return {"y": y**power, "parts": [y.sum(), None]}

    return apply


@pytest.fixture
def functions():
    return bridged(model(torch)), model(jnp)


def arrays():
    return jax.tree.map(jnp.asarray, (W, X))


def equal(mine, native):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), mine, native)


def test_trees_cross(functions):
    mine, native = functions
    w, x = arrays()
    got, expected = mine(w, x), native(w, x)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    equal(got, expected)
    equal(jax.jit(mine)(w, x), expected)


def total(h):
    return lambda w, x: (h(w, x)["y"] ** 2).sum() + h(w, x)["parts"][0]


BATCH = np.stack([X, -X, 2 * X])
TRANSFORMS = {
    "grad": lambda h: jax.grad(total(h)),
    "value_and_grad": lambda h: jax.value_and_grad(total(h)),
    "hessian": lambda h: jax.hessian(total(h)),
    "checkpoint": lambda h: jax.grad(jax.checkpoint(total(h)), argnums=1),
    "vmap": lambda h: lambda w, x: jax.vmap(jax.grad(total(h)), (None, 0))(w, x * BATCH),
    "scan": lambda h: lambda w, x: lax.scan(lambda c, r: (c + total(h)(w, r), c), 0.0, BATCH)[0],
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transformations_see_through_trees(functions, transform):
    mine, native = functions
    equal(jax.jit(transform(mine))(*arrays()), transform(native)(*arrays()))


def test_static_arguments_are_values():
    f = bridged(model(torch), static=((), ("power",)))
    w, x = arrays()
    equal(jax.jit(lambda w, x: f(w, x, power=3))(w, x), model(jnp)(w, x, power=3))


def test_a_tracer_is_planned_for_as_its_array():
    runs, record = recorder()

    def f(x):
        record(x.shape)
        return torch.sin(x)

    g = bridged(f)
    g(jnp.asarray(X))
    fakes = len(runs)
    jax.make_jaxpr(g)(X)
    jax.jit(g).lower(X)
    jax.eval_shape(jax.vmap(g), np.stack([X, X]))
    assert len(runs) <= 2 * fakes  # for the batch only
    assert len(g.plans) == 1


def test_results_that_jax_cannot_hold_are_refused():
    with pytest.raises(
        ArgumentError, match=r"float64\[3\], which has no counterpart while JAX is in 32-bit mode"
    ):
        bridged(lambda x: x.double())(X)
