"""Tensors that functions of torch capture, changed in place between a call and its derivative."""

import numpy as np
import pytest

from bridge import ArgumentError, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([0.5, -1.0, 2.0], "float32")
CHANGES = {
    "method": lambda w: w.mul_(2.0),
    "entry": lambda w: w.__setitem__((0, 1), 3.0),
    "view": lambda w: w[0].add_(1.0),
    "out": lambda w: torch.add(w, 1.0, out=w),
    "optimizer": lambda w: torch.nn.init.ones_(w),
}
WAYS = {
    "plain": lambda f: (f, jnp.asarray(X)),
    "jit": lambda f: (jax.jit(f), jnp.asarray(X)),
    "batch": lambda f: (jax.vmap(f), jnp.stack([X, 2 * X])),
    "batches": lambda f: (
        jax.vmap(jax.vmap(f, in_axes=1), in_axes=1),
        jnp.asarray(np.arange(18, dtype="float32").reshape(3, 2, 3) / 9),
    ),
}


def made():
    weights = torch.tensor([[0.2, 1.0, -0.5], [1.5, 0.3, 0.7], [0.1, -0.4, 0.9]])
    return weights, torch2jax(lambda x: torch.sin(torch.sin(x @ weights) @ weights).sum())


def native(x, weights):
    x = torch.tensor(np.asarray(x), requires_grad=True)
    torch.sin(torch.sin(x @ weights) @ weights).sum().backward()
    return x.grad


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_between_is_refused(change):
    weights, function = made()
    _, pull = jax.vjp(function, jnp.asarray(X))
    CHANGES[change](weights)
    with pytest.raises(
        Exception, match=r"captures \(float32\[3, 3\]\) was changed in place"
    ) as caught:
        jax.block_until_ready(pull(1.0))
    assert isinstance(caught.value, ArgumentError)


@pytest.mark.parametrize("way", WAYS)
def test_a_change_in_between_is_refused_however_it_is_called(way):
    weights, function = made()
    f, x = WAYS[way](function)
    values, pull = jax.vjp(f, x)
    pull(jnp.ones_like(values))
    weights.add_(1.0)
    with pytest.raises(Exception, match=r"captures \(float32\[3, 3\]\) was changed in place"):
        jax.block_until_ready(pull(jnp.ones_like(values)))


@pytest.mark.parametrize("way", ["plain", "jit"])
def test_a_change_before_the_call_or_after_the_derivative_is_none(way):
    weights, function = made()
    gradient, x = WAYS[way](jax.grad(function))
    for _ in range(3):
        np.testing.assert_allclose(gradient(x), native(X, weights), rtol=1e-4, atol=1e-5)
        weights.mul_(1.1)


def test_the_jacobian_of_a_function_that_captures():
    weights = torch.tensor([[0.2, 1.0], [1.5, 0.3], [0.1, -0.4]])
    function = lambda x: torch.tanh(x @ weights) ** 2
    found = jax.jacrev(torch2jax(function))(jnp.asarray(X))
    expected = torch.func.jacrev(function)(torch.tensor(X))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_parameters_of_a_captured_module():
    layer = torch.nn.Linear(3, 3)
    function = torch2jax(lambda x: layer(torch.sin(layer(x))).sum())
    _, pull = jax.vjp(function, jnp.asarray(X))
    descent = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.tensor(X)).sum().backward()
    descent.step()
    with pytest.raises(Exception, match="was changed in place between a call and its derivative"):
        jax.block_until_ready(pull(1.0))


class Cached(torch.nn.Module):
    """A module that fills a cache at its first call, or changes a state at each."""

    def __init__(self, *, state):
        super().__init__()
        self.state, self.cache = state, torch.zeros(3) if state else None

    def forward(self, x):
        if self.state:
            self.cache = 0.5 * self.cache + x
        elif self.cache is None:
            self.cache = torch.arange(3.0).cos()
        return x * self.cache


def remembering():
    known = {}

    def function(x):
        if "scale" not in known:
            known["scale"] = torch.arange(3.0).cos()
        return x * known["scale"]

    return function


KEEPING = {
    "state": lambda: Cached(state=True),
    "cache": lambda: Cached(state=False),
    "dict": remembering,
}


@pytest.mark.parametrize("kind", KEEPING)
@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_what_one_run_of_a_capture_leaves_for_the_next_is_refused(kind, lower):
    """Its memory would be read, which holds anything."""
    function = KEEPING[kind]()
    bridged = torch2jax(lambda x: function(x), lower=lower)
    with pytest.raises(ArgumentError, match=r"keeps a tensor \(float32\[3\]\) of one run for the"):
        bridged(jnp.asarray(X))


@pytest.mark.parametrize("kind", ["cache", "dict"])
def test_a_cache_that_is_filled_before_is_constant(kind):
    function = KEEPING[kind]()
    expected = function(torch.tensor(X))
    np.testing.assert_allclose(torch2jax(lambda x: function(x))(jnp.asarray(X)), expected)


def test_a_module_that_is_passed_fills_its_cache_anew():
    module = Cached(state=False)
    there = torch2jax(module)
    found, _ = there.apply({}, {}, X)
    assert module.cache is None
    np.testing.assert_allclose(found, module(torch.tensor(X)), rtol=1e-6)
