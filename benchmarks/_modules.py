"""Modules of other frameworks: what they cost beside functions of the same arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import Functional, jax2torch, mlx2torch, to_torch

_MODULE, _LIST = "bridged module", "the function, tensors in a list"
_LIMITS = {6: 1.15, 200: 1.1}  # by the number of parameters
_MLX_LIMIT = 1.5  # MLX runs a module anew in both halves of a step
_BY_HAND, _INTEROP = "jitted Flax and optax", "torch-jax-interop"


def in_torch(effort: Effort) -> list[Measurement]:
    """Forward and backward of perceptrons, and of one with running statistics."""
    perceptrons = [make(effort, count) for make in (_perceptron, _of_mlx) for count in _LIMITS]
    return [*perceptrons, _with_statistics(effort)]


def _weights(count: int) -> list[jax.Array]:
    """Matrices and biases of so many layers of width 8."""
    keys = jax.random.split(jax.random.key(0), count)
    shapes = [(8, 8), (8,)] * (count // 2)
    return [jax.random.normal(key, shape) / 3 for key, shape in zip(keys, shapes, strict=True)]


def _layers(weights: Sequence[jax.Array], x: jax.Array) -> jax.Array:
    for matrix, bias in zip(weights[::2], weights[1::2], strict=True):
        x = jnp.tanh(x @ matrix + bias)
    return x


def _perceptron(effort: Effort, count: int) -> Measurement:
    weights = _weights(count)
    module = jax2torch(Functional(_layers, weights))
    function = jax2torch(_layers)
    tensors = [to_torch(w, copy=True).requires_grad_() for w in weights]
    x = torch.randn(16, 8)
    steps = {
        _LIST: _gradient_step(lambda: function(tensors, x), tensors),
        _MODULE: _gradient_step(lambda: module(x), [*module.parameters()]),
    }
    return _compare_in_torch(effort, steps, f"JAX perceptron of {count} parameters", _LIMITS[count])


def _of_mlx(effort: Effort, count: int) -> Measurement:
    import mlx.core as mx
    import mlx.nn as nn

    layers = [layer for _ in range(count // 2) for layer in (nn.Linear(8, 8), nn.Tanh())]

    def function(weights: Sequence[Any], x: Any) -> Any:
        for matrix, bias in zip(weights[::2], weights[1::2], strict=True):
            x = mx.tanh(mx.addmm(bias, x, matrix.T))
        return x

    module, bridged = mlx2torch(nn.Sequential(*layers)), mlx2torch(function)
    tensors = [p.detach().clone().requires_grad_() for p in module.parameters()]
    x = torch.randn(16, 8)
    steps = {
        _LIST: _gradient_step(lambda: bridged(tensors, x), tensors),
        _MODULE: _gradient_step(lambda: module(x), [*module.parameters()]),
    }
    what = f"MLX perceptron of {count} parameters"
    return _compare_in_torch(effort, steps, what, _MLX_LIMIT)


def _gradient_step(
    call: Callable[[], torch.Tensor], parameters: Sequence[torch.Tensor]
) -> Callable[[], Sequence[torch.Tensor]]:
    return lambda: torch.autograd.grad(call().sum(), parameters)


def _compare_in_torch(
    effort: Effort, steps: dict[str, Callable[[], Sequence[torch.Tensor]]], what: str, limit: float
) -> Measurement:
    torch.testing.assert_close(steps[_MODULE](), steps[_LIST]())
    return Measurement(
        title=f"{what} as a module of torch, forward and backward",
        unit="us",
        values=timed(steps, seconds=effort.seconds(8), scale=1e6),
        reference=_LIST,
        bars=[Bar(f"within {limit}x the function", _MODULE, _LIST, limit)],
    )


def _normalized(weights: Sequence[jax.Array], statistics: Any, x: jax.Array) -> Any:
    """Layers with batch normalization after each."""
    new = list[Any]()
    pairs = zip(weights[::2], weights[1::2], statistics["norms"], strict=True)
    for matrix, bias, old in pairs:
        x = x @ matrix + bias
        mean, variance = x.mean(0), x.var(0)
        new.append(jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, old, (mean, variance)))
        x = jnp.tanh((x - mean) / jnp.sqrt(variance + 1e-5))
    return x, {"norms": new}


def _with_statistics(effort: Effort) -> Measurement:
    weights = _weights(6)
    statistics = {"norms": [(jnp.zeros(8), jnp.ones(8))] * 3}
    module = jax2torch(Functional(_normalized, weights, statistics))
    function = jax2torch(_normalized)
    tensors = [to_torch(w, copy=True).requires_grad_() for w in weights]
    buffers = {"norms": [(torch.zeros(8), torch.ones(8)) for _ in range(3)]}
    x = torch.randn(16, 8)
    steps = {
        _LIST: _gradient_step(lambda: function(tensors, buffers, x)[0], tensors),
        _MODULE: _gradient_step(lambda: module(x), [*module.parameters()]),
    }
    return _compare_in_torch(effort, steps, "JAX perceptron with 6 running statistics", 1.3)


def flax(effort: Effort) -> list[Measurement]:
    """A training step of a convolutional network of Flax on digits."""
    import flax.linen as linen
    from sklearn.datasets import load_digits

    class CNN(linen.Module):
        @linen.compact
        def __call__(self, images: jax.Array, *, train: bool = True) -> jax.Array:
            x = linen.Conv(16, (3, 3))(images)
            x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
            x = linen.relu(linen.Conv(32, (3, 3), strides=2)(x))
            return linen.Dense(10)(x.reshape(len(x), -1))

    images, labels = load_digits(return_X_y=True)
    x, y = images[:64].astype("float32").reshape(-1, 8, 8, 1) / 16, labels[:64]
    network = CNN()
    variables = network.init(jax.random.key(0), x)
    steps: dict[str, Step] = {
        _BY_HAND: _flax_step(network, variables, x, y),
        _MODULE: _torch_step(jax2torch(network.bind(variables)), torch.tensor(x), torch.tensor(y)),
    }
    missing: dict[str, str] = {}
    if effort.peers:
        try:
            steps[_INTEROP] = _interop_step(network, variables, x, y)
        except Exception as error:  # noqa: BLE001, a peer that fails is listed
            missing[_INTEROP] = f"{type(error).__name__}: {error}"
    bars = [Bar("within 1.5x of Flax", _MODULE, _BY_HAND, 1.5)]
    if _INTEROP in steps:
        bars.append(Bar("five times as fast", _MODULE, _INTEROP, 0.2))
    return [
        Measurement(
            title="convolutional network of Flax on digits, batch 64, a training step with Adam",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(10), scale=1e3),
            reference=_BY_HAND,
            bars=bars,
            missing=missing,
        )
    ]


def _flax_step(network: Any, variables: Any, x: np.ndarray, y: np.ndarray) -> Step:
    rule = optax.adam(1e-3)
    carry = [variables["params"], variables["batch_stats"], rule.init(variables["params"])]

    @jax.jit
    def step(params: Any, statistics: Any, state: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, new = network.apply(
                {"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"]
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), new["batch_stats"]

        gradients, new = jax.grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state)
        return optax.apply_updates(params, updates), new, state

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry))

    return run


def _torch_step(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, foreach=True)

    def run() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def _interop_step(network: Any, variables: Any, x: np.ndarray, y: np.ndarray) -> Step:
    """The network in evaluation, since its module of torch has no running statistics."""
    from torch_jax_interop import WrappedJaxFunction

    def apply(params: Any, images: jax.Array) -> jax.Array:
        return network.apply({**variables, "params": params}, images, train=False)

    model = WrappedJaxFunction(jax.jit(apply), variables["params"])
    return _torch_step(model, torch.tensor(x), torch.tensor(y))
