"""The choices of `residuals="auto"`, held against the time that every strategy takes."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
import torch

from benchmarks._contenders import BY_HAND, OURS, loss_floor
from benchmarks._functions import EXAMPLES, Example
from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import jax2torch
from bridge._sources.jax import rules
from bridge._sources.jax.cheap_operations import can_repeat, repeat_cheap_operations
from bridge._sources.jax.residuals import save_residuals
from bridge._sources.jax.scalar_gradient import gradient_with_value, is_scalable
from bridge._sources.jax.strategy import Choice, choose_strategy

_SAVE, _SAVE_ALL, _RECOMPUTE = "save", "save all", "recompute"
_GRADIENT = "gradient with the value"
_LOSS_LIMIT = 1.1


class _NotPossibleError(Exception):
    """The strategy is none for this function."""


def _save(derivative: Any) -> Any:
    if not can_repeat(derivative.program.jaxpr.jaxpr):
        raise _NotPossibleError
    function = repeat_cheap_operations(derivative.program)
    return save_residuals(derivative, function).forward_backward()


def _gradient(derivative: Any) -> Any:
    if not is_scalable(derivative):
        raise _NotPossibleError
    return gradient_with_value(derivative)


_STRATEGIES: dict[str, Callable[[Any], Any]] = {
    OURS: lambda derivative: choose_strategy(derivative, "auto").pair,
    _SAVE: _save,
    _SAVE_ALL: lambda derivative: save_residuals(derivative).forward_backward(),
    _RECOMPUTE: lambda _: None,
    _GRADIENT: _gradient,
}


def choices(effort: Effort) -> Iterator[Measurement]:
    """Each function by each strategy that it has, and what is lost by the one that is chosen."""
    for name, example in EXAMPLES.items():
        yield _compare(name, example, effort)


def _compare(name: str, example: Example, effort: Effort) -> Measurement:
    steps: dict[str, Step] = {}
    note = ""
    for strategy in _STRATEGIES:
        step, bridged = _gradient_step(example, strategy)
        if step is None:
            continue
        steps[strategy] = step
        note = note or f"`{bridged!r}`"
    expected = steps[_RECOMPUTE]()
    for step in steps.values():
        for one, other in zip(step(), expected, strict=True):  # pyright: ignore[reportArgumentType]
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-3)
    values = timed(steps, seconds=effort.seconds(5), scale=1e6)
    others = [strategy for strategy in steps if strategy != OURS]
    fastest = min(others, key=lambda strategy: float(np.median(values[strategy])))
    return Measurement(
        title=f"choice for: {name}",
        unit="us",
        values=values,
        reference=fastest,
        bars=[Bar(f"within 1.1x the fastest, {fastest}", OURS, fastest, 1.1)],
        notes=[note],
    )


def _gradient_step(example: Example, strategy: str) -> tuple[Step | None, Any]:
    """A forward and a backward pass by this strategy; None if the function does not have it."""
    function, arguments = example
    flat, structure = jax.tree.flatten(arguments)
    tensors = [torch.tensor(x).requires_grad_() for x in flat]
    bridged = jax2torch(lambda *xs: function(*jax.tree.unflatten(structure, xs)))
    possible: list[bool] = []

    def choose(derivative: Any, _: str) -> Choice:
        try:
            pair = _STRATEGIES[strategy](derivative)
        except _NotPossibleError:
            possible.append(False)
            raise
        possible.append(True)
        return Choice(pair, strategy)

    with mock.patch.object(rules, "choose_strategy", choose):
        output = bridged(*tensors)
    cotangent = torch.cos(torch.arange(output.numel())).reshape(output.shape)
    if output.numel() == 1:
        cotangent = torch.ones_like(output)

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(bridged(*tensors), tensors, cotangent)

    step()
    if not all(possible):
        return None, bridged
    if strategy != OURS and strategy.split()[0] not in repr(bridged):
        raise RuntimeError(f"{bridged!r} was to be measured by the strategy {strategy!r}")
    return step, bridged


def loss(effort: Effort) -> list[Measurement]:
    """The loss of a perceptron, with its gradient, in one function."""
    function, arguments = EXAMPLES["the same, its loss"]
    native = jax.jit(jax.value_and_grad(function))
    arrays = jax.tree.map(jax.device_put, arguments)
    weights, x = jax.tree.map(torch.tensor, arguments)
    leaves = [tensor.requires_grad_() for pair in weights for tensor in pair]
    structure, bridged = jax.tree.structure(arguments), jax2torch(function)
    of_leaves = lambda *xs: function(*jax.tree.unflatten(structure, xs))
    by_hand = loss_floor(of_leaves, len(leaves))

    def make_step(call: Callable[[], torch.Tensor]) -> Step:
        def step() -> list[torch.Tensor | None]:
            for leaf in leaves:
                leaf.grad = None
            call().backward()
            return [leaf.grad for leaf in leaves]

        return step

    pure = "jitted jax.value_and_grad"
    native_step = lambda: jax.block_until_ready(native(*arrays))
    bridged_step = make_step(lambda: bridged(weights, x))
    by_hand_step = make_step(lambda: by_hand(*leaves, x))
    steps: dict[str, Step] = {pure: native_step, OURS: bridged_step, BY_HAND: by_hand_step}
    expected = jax.tree.leaves(native(*arrays)[1])
    for step in (bridged_step, by_hand_step):
        for one, other in zip(step(), expected, strict=True):  # pyright: ignore[reportArgumentType]
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-3, atol=1e-6)
    return [
        Measurement(
            title="loss of a perceptron in JAX, 6 layers of 256, batch 64, value and gradient",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(10), scale=1e3),
            reference=pure,
            bars=[
                Bar(f"within {_LOSS_LIMIT}x jitted jax.value_and_grad", OURS, pure, _LOSS_LIMIT),
                Bar("the same by hand", BY_HAND, pure),
            ],
            notes=[f"`{bridged!r}`"],
        )
    ]
