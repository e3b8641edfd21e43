"""Sixteen numbers: what a call costs where there is hardly anything to compute."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks._contenders import FLOOR, OURS, RECOMPUTE, Written, floor, ours, vetted
from benchmarks._machine import Effort
from benchmarks._peers import NAMES as PEERS, peers
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed

_SIZE = 16
_AS_TENSOR = "floor, with its result as a tensor"
_NATIVE, _WRITTEN = "torch native", "autograd.Function in Python"


def function(x: jax.Array) -> jax.Array:
    """Something with a derivative that needs its argument."""
    return jnp.sin(x) * x


def forward_backward(effort: Effort) -> list[Measurement]:
    """16 float32, forward and backward."""
    x, cotangent = torch.randn(_SIZE, requires_grad=True), torch.randn(_SIZE)
    others, missing = peers(function, take_part=effort.peers)
    calls = {
        FLOOR: floor(function),
        _NATIVE: lambda x: torch.sin(x) * x,
        _WRITTEN: Written.apply,
        **ours(function),
        **others,
    }

    def step(call: Callable[[torch.Tensor], torch.Tensor]) -> Sequence[Any]:
        x.grad = None
        y = call(x)
        y.backward(cotangent)
        return y, x.grad

    steps = {name: _bound(step, call) for name, call in calls.items()}
    values, unfit = _run(steps, effort, 8)
    bars = [
        Bar("within 1.2x the floor", OURS, FLOOR, 1.2),
        *_fastest(values, 0.2),
        Bar("recompute against the floor", RECOMPUTE, FLOOR),
    ]
    return [
        Measurement(
            title="16 float32, forward and backward",
            unit="us",
            values=values,
            reference=FLOOR,
            bars=bars,
            missing=missing | unfit,
            notes=[f"`{calls[OURS]!r}`"],
        )
    ]


def forward(effort: Effort) -> list[Measurement]:
    """16 float32, forward only, without gradients."""
    x = torch.randn(_SIZE)
    jitted = jax.jit(function)
    others, missing = peers(function, take_part=effort.peers)
    calls = {
        FLOOR: lambda x: jitted(x.numpy()),
        _AS_TENSOR: lambda x: torch.from_numpy(np.asarray(jitted(x.numpy()))),
        _NATIVE: lambda x: torch.sin(x) * x,
        _WRITTEN: Written.apply,
        OURS: ours(function)[OURS],
        **others,
    }
    steps = {name: _bound(lambda call: [call(x)], call) for name, call in calls.items()}
    values, unfit = _run(steps, effort, 5)
    bars = [
        Bar("within 1.3x the bare jitted call on a NumPy view", OURS, FLOOR, 1.3),
        Bar("against that call with its result as a tensor", OURS, _AS_TENSOR),
    ]
    return [
        Measurement(
            title="16 float32, forward only, no grad",
            unit="us",
            values=values,
            reference=FLOOR,
            bars=bars,
            missing=missing | unfit,
        )
    ]


def _bound(step: Callable[[Any], object], call: Any) -> Step:
    return lambda: step(call)


def _run(
    steps: Mapping[str, Step], effort: Effort, seconds: float
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Microseconds of each contender that is right, and why others are not."""
    expected = [x.detach().clone() for x in steps[_NATIVE]()]
    fit, unfit = vetted(steps, expected, optional=PEERS)
    return timed(fit, seconds=effort.seconds(seconds), scale=1e6), unfit


def _fastest(values: Mapping[str, Sequence[float]], limit: float) -> list[Bar]:
    """The bar against the fastest peer, if one took part."""
    running = [name for name in PEERS if name in values]
    if not running:
        return []
    fastest = min(running, key=lambda name: sorted(values[name])[len(values[name]) // 2])
    text = f"{1 / limit:.0f}x faster than the fastest peer ({fastest})"
    return [Bar(text, OURS, fastest, limit)]
