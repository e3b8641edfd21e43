"""Modules of every source that makes modules of torch, and what they compute, written in torch."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable

import numpy as np
import pytest

from bridge import Functional, _registry, jax2torch

torch = pytest.importorskip("torch")

DRAWS = np.random.default_rng(15)
X = DRAWS.normal(size=(6, 3)).astype("float32")
SOURCES = [source for source, target in _registry.directions() if target == "torch"]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of module.

    Attributes:
        source: The framework of the module.
        make: Makes a bridged one, whose weights follow from an integer.
        reference: The same as a function of parameters, buffers, input and mode, in torch, which
            returns the output and what buffers are after the call.
    """

    source: str
    make: Callable
    reference: Callable


def weights(*shape, seed=0):
    return (0.7 * np.random.default_rng([*shape, seed]).normal(size=shape)).astype("float32")


def functional_net(params, buffers, x, *, training):
    """A linear layer, a normalization with statistics, and another linear layer."""
    import jax.numpy as jnp

    y = jnp.tanh(x @ params["first"]["w"] + params["first"]["b"])
    mean, var, new = buffers["norm"]["mean"], buffers["norm"]["var"], buffers
    if training:
        mean, var = y.mean(0), y.var(0)
        norm = {
            "mean": 0.9 * buffers["norm"]["mean"] + 0.1 * mean,
            "var": 0.9 * buffers["norm"]["var"] + 0.1 * var,
            "count": buffers["norm"]["count"] + 1,
            "table": buffers["norm"]["table"],
        }
        new = {"norm": norm}
    y = (y - mean) / jnp.sqrt(var + 1e-3) * params["norm"]["scale"] + buffers["norm"]["table"]
    return y @ params["last"]["w"], new


def functional_reference(p, b, x, training):
    y = torch.tanh(x @ p["first.w"] + p["first.b"])
    mean, var, new = b["norm.mean"], b["norm.var"], dict(b)
    if training:
        mean, var = y.mean(0), y.var(0, correction=0)
        new["norm.mean"] = 0.9 * b["norm.mean"] + 0.1 * mean.detach()
        new["norm.var"] = 0.9 * b["norm.var"] + 0.1 * var.detach()
        new["norm.count"] = b["norm.count"] + 1
    y = (y - mean) / torch.sqrt(var + 1e-3) * p["norm.scale"] + b["norm.table"]
    return y @ p["last.w"], new


def make_functional(seed=0):
    import jax.numpy as jnp

    params = {
        "first": {"w": weights(3, 4, seed=seed), "b": weights(4, seed=seed)},
        "norm": {"scale": 1 + weights(4, seed=seed)},
        "last": {"w": weights(4, 2, seed=seed)},
    }
    statistics = {"mean": weights(4), "var": 1 + weights(4) ** 2, "table": weights(4) / 3}
    norm = {**{k: jnp.asarray(x) for k, x in statistics.items()}, "count": jnp.array(0, "int32")}
    return jax2torch(Functional(functional_net, as_jax(params), {"norm": norm}))


def as_jax(tree):
    import jax

    return jax.tree.map(jax.numpy.asarray, tree)


with contextlib.suppress(ImportError):
    eqx = importlib.import_module("equinox")

    class MLP(eqx.Module):
        """Two linear layers; that of Equinox holds a lambda, which cannot be pickled."""

        layers: list

        def __call__(self, x):
            import jax.numpy as jnp

            return self.layers[1](jnp.tanh(self.layers[0](x)))


def make_mlp(seed=0):
    """Two linear layers of Equinox."""
    jax = pytest.importorskip("jax")
    eqx = pytest.importorskip("equinox")
    first, last = jax.random.split(jax.random.key(seed))
    return MLP([eqx.nn.Linear(3, 4, key=first), eqx.nn.Linear(4, 2, key=last)])


def make_equinox(seed=0):
    return jax2torch(make_mlp(seed), method=call_over_batch)


def call_over_batch(module, x):
    import jax

    return jax.vmap(module)(x)


def equinox_reference(p, b, x, training):
    y = torch.tanh(x @ p["layers.0.weight"].T + p["layers.0.bias"])
    return y @ p["layers.1.weight"].T + p["layers.1.bias"], b


class Pair:
    """A callable pytree: two matrices, and a table of integers, which is no parameter."""

    def __init__(self, first, last, shift):
        self.first, self.last, self.shift = first, last, shift

    def __call__(self, x):
        import jax.numpy as jnp

        return (jnp.tanh(x @ self.first) + self.shift) @ self.last

    def twice(self, x):
        return 2 * self(x)

    def tree_flatten(self):
        return (self.first, self.last, self.shift), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


with contextlib.suppress(ImportError):
    importlib.import_module("jax").tree_util.register_pytree_node_class(Pair)


def pair(seed=0):
    """A `Pair` of arrays of JAX."""
    jax = pytest.importorskip("jax")
    shift = jax.numpy.arange(4)
    return Pair(*as_jax([weights(3, 4, seed=seed), weights(4, 2, seed=seed)]), shift)


def make_pytree(seed=0):
    return jax2torch(pair(seed))


def pytree_reference(p, b, x, training):
    first, last = p.values()
    (shift,) = b.values()
    return (torch.tanh(x @ first) + shift) @ last, b


KINDS = {
    "functional": Kind("jax", make_functional, functional_reference),
    "equinox": Kind("jax", make_equinox, equinox_reference),
    "pytree": Kind("jax", make_pytree, pytree_reference),
}


def batch(dtype=None):
    return torch.tensor(X, dtype=dtype)


def arrays(layer):
    """Copies of parameters and buffers by name, those of parameters asking for gradients."""
    params = {name: x.detach().clone().requires_grad_() for name, x in layer.named_parameters()}
    return params, {name: x.clone() for name, x in layer.named_buffers()}


def close(ours, expected, **tolerances):
    torch.testing.assert_close(ours, expected, **{"rtol": 1e-4, "atol": 1e-5, **tolerances})
