"""What a call and a training step cost by their size: elements, layers and the batch."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import _eager
from benchmarks._contenders import FLOOR, OURS, SAVE, floor, ours, vetted
from benchmarks._machine import Effort
from benchmarks._peers import NAMES as PEERS, peers
from benchmarks._results import Measurement
from benchmarks._timing import Step, timed
from bridge import jax2torch

_NATIVE, _PURE = "torch native", "jitted jax.value_and_grad"
_ELEMENTS = (2**4, 2**8, 2**12, 2**16, 2**20, 2**24)
_DEPTHS, _WIDTH, _ROWS = (2, 4, 8, 16, 32), 256, 64
_BATCHES, _FEATURES = (1, 4, 16, 64, 256, 1024, 4096), (784, 256, 10)


def elements(effort: Effort) -> Iterator[Measurement]:
    """Forward and backward of a function of so many numbers."""
    others, missing = peers(_eager.function, take_part=effort.peers)
    calls = {
        OURS: jax2torch(_eager.function),
        FLOOR: floor(_eager.function),
        _NATIVE: lambda x: torch.sin(x) * x,
        **others,
    }
    for count in _ELEMENTS:
        x, cotangent = torch.randn(count, requires_grad=True), torch.randn(count)
        steps = {name: _backward(call, x, cotangent) for name, call in calls.items()}
        expected = [y.detach().clone() for y in steps[_NATIVE]()]
        fit, unfit = vetted(steps, expected, optional=PEERS)
        yield Measurement(
            title=f"{count:,} elements, forward and backward",
            unit="us",
            values=timed(fit, seconds=effort.seconds(4), scale=1e6),
            reference=FLOOR,
            missing=missing | unfit,
        )


def _backward(
    call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, cotangent: torch.Tensor
) -> Callable[[], Sequence[Any]]:
    def step() -> Sequence[Any]:
        x.grad = None
        y = call(x)
        y.backward(cotangent)
        return y, x.grad

    return step


def depth(effort: Effort) -> Iterator[Measurement]:
    """A step through so many layers of JAX with the loss in torch, and what it keeps."""
    x = torch.randn(_ROWS, _WIDTH)
    for layers in _DEPTHS:
        weights = torch.randn(layers, _WIDTH, _WIDTH) / _WIDTH**0.5
        weights.requires_grad_()
        steps = {name: _step(call, x, weights) for name, call in ours(_layers).items()}
        for step in steps.values():
            step()
        yield Measurement(
            title=f"perceptron of {layers} layers, what its backward pass keeps",
            unit="MB",
            values={name: [_saved(step) / 2**20] for name, step in steps.items()},
            reference=SAVE,
        )
        yield Measurement(
            title=f"perceptron of {layers} layers, forward and backward",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(4), scale=1e3),
            reference=SAVE,
        )


def _layers(x: jax.Array, weights: jax.Array) -> jax.Array:
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return x


def _step(call: Callable[..., torch.Tensor], x: torch.Tensor, weights: torch.Tensor) -> Step:
    def step() -> None:
        weights.grad = None
        call(x, weights).square().mean().backward()

    return step


def _saved(step: Step) -> int:
    """The bytes of tensors that torch saves in a step, each memory counted once."""
    storages: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # or its address might be taken again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storages.values())


def batch(effort: Effort) -> Iterator[Measurement]:
    """A training step of a perceptron in JAX, loss included, by its batch."""
    random = np.random.default_rng(0)
    sizes = itertools.pairwise(_FEATURES)
    weights = [random.normal(size=s).astype("float32") / s[0] ** 0.5 for s in sizes]
    bridged, pure = jax2torch(_loss), jax.jit(jax.value_and_grad(_loss))
    for count in _BATCHES:
        x = random.normal(size=(count, _FEATURES[0])).astype("float32")
        y = random.normal(size=(count, _FEATURES[-1])).astype("float32")
        arrays = [[jnp.asarray(w) for w in weights], jnp.asarray(x), jnp.asarray(y)]
        steps = {
            OURS: _training(bridged, weights, x, y),
            _NATIVE: _training(_torch_loss, weights, x, y),
            _PURE: lambda arrays=arrays: jax.block_until_ready(pure(*arrays)),
        }
        yield Measurement(
            title=f"perceptron, batch {count:,}, forward and backward",
            unit="us",
            values=timed(steps, seconds=effort.seconds(3), scale=1e6),
            reference=_PURE,
        )


def _loss(weights: Sequence[Any], x: Any, y: Any) -> Any:
    hidden, output = weights
    return ((jnp.tanh(x @ hidden) @ output - y) ** 2).mean()


def _torch_loss(weights: Sequence[Any], x: Any, y: Any) -> Any:
    hidden, output = weights
    return ((torch.tanh(x @ hidden) @ output - y) ** 2).mean()


def _training(loss: Callable[..., torch.Tensor], weights: Sequence[Any], *data: np.ndarray) -> Step:
    parameters = [torch.tensor(w, requires_grad=True) for w in weights]
    tensors = [torch.tensor(x) for x in data]

    def step() -> None:
        for parameter in parameters:
            parameter.grad = None
        loss(parameters, *tensors).backward()

    return step
