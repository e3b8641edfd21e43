"""Batches that torch does not make as a whole, compiled by XLA: functions that use torch.func."""

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([0.5, -1.2, 2.0], np.float32)
XS = np.stack([X, 1 - 2 * X])


def of_torch(x):
    return (x.sin() * x**2).sum()


def of_jax(x):
    return (jnp.sin(x) * x**2).sum()


PAIRS = {
    "grad": (lambda x: torch.func.grad(of_torch)(x), jax.grad(of_jax)),
    "jvp": (
        lambda x: torch.func.jvp(lambda t: t.sin() * t, (x,), (x * 2,))[1],
        lambda x: jax.jvp(lambda t: jnp.sin(t) * t, (x,), (x * 2,))[1],
    ),
    "vmap": (lambda x: torch.vmap(lambda t: t.sin() * t)(x), lambda x: jnp.sin(x) * x),
    "hessian": (lambda x: torch.func.hessian(of_torch)(x), jax.hessian(of_jax)),
}
TRANSFORMS = {
    "vmap": jax.vmap,
    "compiled": lambda f: jax.jit(jax.vmap(f)),
    "forward mode": lambda f: lambda xs: jax.jacfwd(f)(xs[0]),
    "reverse mode": lambda f: lambda xs: jax.jacrev(f)(xs[0]),
    "gradients of examples": lambda f: jax.vmap(jax.grad(lambda x: (f(x) ** 2).sum())),
    "gradient of a batch": lambda f: jax.grad(lambda xs: (jax.vmap(f)(xs) ** 3).sum()),
    "batch of batches": lambda f: lambda xs: jax.vmap(jax.vmap(f))(jnp.stack([xs, 2 * xs], 1)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("name", PAIRS)
def test_functions_that_use_torch_func(name, transform):
    here, there = PAIRS[name]
    found, expected = transform(torch2jax(here, lower="xla"))(XS), transform(there)(XS)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_gradients_by_what_all_examples_share():
    f = torch2jax(lambda w, x: torch.func.grad(lambda t: (t.sin() * w * t).sum())(x), lower="xla")
    g = lambda w, x: jax.grad(lambda t: (jnp.sin(t) * w * t).sum())(x)
    loss = lambda f: lambda w: (jax.vmap(f, (None, 1), 1)(w, XS.T) ** 2).sum()
    np.testing.assert_allclose(jax.grad(loss(f))(X), jax.grad(loss(g))(X), rtol=1e-4)


def test_examples_with_keys_of_their_own_draw_what_each_would_alone():
    f = torch2jax(lambda x: torch.dropout(x, 0.5, train=True) * x, lower="xla")
    keys = jax.random.split(jax.random.key(7), 3)
    one = lambda key: jax.value_and_grad(lambda x: f(x, rng=key).sum())(jnp.ones(20))
    found = jax.jit(jax.vmap(one))(keys)
    jax.tree.map(np.testing.assert_array_equal, found, jax.lax.map(one, keys))
    assert len({*found[0].tolist()}) > 1


def test_zeros_without_memory_among_constants():
    f = torch2jax(lambda x: torch.func.hessian(of_torch)(x), lower="xla")
    found = jax.jvp(f, (X,), (X,))[1]
    expected = jax.jvp(jax.hessian(of_jax), (X,), (X,))[1]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
