"""Modules of every source that makes modules of torch, and what they compute, written in torch."""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable

import numpy as np
import pytest

from bridge import Functional, _registry, jax2torch, mlx2torch

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


def make_nnx(seed=0):
    nnx = pytest.importorskip("flax.nnx")
    rngs = nnx.Rngs(seed)
    linear, norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
    return jax2torch(nnx.Sequential(linear, norm, nnx.Linear(4, 2, rngs=rngs)))


def nnx_reference(p, b, x, training):
    names = ["layers.0.kernel", "layers.0.bias", "layers.2.kernel", "layers.2.bias"]
    kernel, bias, last, last_bias = (p[name] for name in names)
    norm = {name: p[f"layers.1.{name}"] for name in ("scale", "bias")}
    y, new = normalize(x @ kernel + bias, norm, b, "layers.1.", 1e-5, training)
    return y @ last + last_bias, new


def normalize(y, norm, b, prefix, epsilon, training):
    """Normalize over the batch as Flax does, with the momentum 0.9."""
    mean, var, new = b[f"{prefix}mean"], b[f"{prefix}var"], dict(b)
    if training:
        mean, var = y.mean(0), y.var(0, correction=0)
        for name, value in (("mean", mean), ("var", var)):
            new[prefix + name] = 0.9 * b[prefix + name] + 0.1 * value.detach()
    return (y - mean) / torch.sqrt(var + epsilon) * norm["scale"] + norm["bias"], new


def make_linen(seed=0):
    jax, linen = pytest.importorskip("jax"), pytest.importorskip("flax.linen")
    net = LinenNet()
    variables = net.init(jax.random.key(seed), jax.numpy.asarray(X), train=False)
    del linen
    return jax2torch(net.bind(variables))


def linen_reference(p, b, x, training):
    names = ["Dense_0.kernel", "Dense_0.bias", "Dense_1.kernel", "Dense_1.bias"]
    kernel, bias, last, last_bias = (p[name] for name in names)
    norm = {name: p[f"BatchNorm_0.{name}"] for name in ("scale", "bias")}
    prefix = "batch_stats.BatchNorm_0."
    y, new = normalize(x @ kernel + bias, norm, b, prefix, 1e-5, training)
    return torch.tanh(y) @ last + last_bias, new


with contextlib.suppress(ImportError):
    linen = importlib.import_module("flax.linen")

    class LinenNet(linen.Module):
        """A normalization with statistics between linear layers."""

        @linen.compact
        def __call__(self, x, train):
            y = linen.BatchNorm(use_running_average=not train, momentum=0.9)(linen.Dense(4)(x))
            return linen.Dense(2)(linen.tanh(y))


def make_mlx(seed=0):
    mx, mnn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    mx.random.seed(seed)
    return mlx2torch(mnn.Sequential(mnn.Linear(3, 4), mnn.BatchNorm(4), mnn.Linear(4, 2)))


def mlx_reference(p, b, x, training):
    y = x @ p["layers.0.weight"].T + p["layers.0.bias"]
    prefix, new = "layers.1.running_", dict(b)
    mean, var = b[f"{prefix}mean"], b[f"{prefix}var"]
    if training:
        mean, var = y.mean(0), y.var(0, correction=0)
        new[f"{prefix}mean"] = 0.9 * b[f"{prefix}mean"] + 0.1 * mean.detach()
        new[f"{prefix}var"] = 0.9 * b[f"{prefix}var"] + 0.1 * y.detach().var(0)  # as MLX, unbiased
    y = (y - mean) / torch.sqrt(var + 1e-5) * p["layers.1.weight"] + p["layers.1.bias"]
    return y @ p["layers.2.weight"].T + p["layers.2.bias"], new


KINDS = {
    "functional": Kind("jax", make_functional, functional_reference),
    "equinox": Kind("jax", make_equinox, equinox_reference),
    "pytree": Kind("jax", make_pytree, pytree_reference),
    "nnx": Kind("jax", make_nnx, nnx_reference),
    "linen": Kind("jax", make_linen, linen_reference),
    "mlx": Kind("mlx", make_mlx, mlx_reference),
}


def batch(dtype=None):
    return torch.tensor(X, dtype=dtype)


def arrays(layer):
    """Copies of parameters and buffers by name, those of parameters asking for gradients."""
    params = {name: x.detach().clone().requires_grad_() for name, x in layer.named_parameters()}
    return params, {name: x.clone() for name, x in layer.named_buffers()}


def close(ours, expected, **tolerances):
    torch.testing.assert_close(ours, expected, **{"rtol": 1e-4, "atol": 1e-5, **tolerances})
