"""Sixty-four megabytes: whether what a call costs depends on the size of its tensors.

NOTE [the kernel subtracted]
A result of 64 MB has to be computed, which takes a thousand times as long as the crossing and
varies by more than that. So the argument is measured with a function that reads eight numbers of
it; and where the result is large too, what a call takes beyond the same jitted function on a NumPy
view, in the same round, is compared with what one copy of the result would add.
"""

from collections.abc import Mapping, Sequence

import jax
import torch

from benchmarks._contenders import OURS
from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import jax2torch

_SIZES = {"64 KB": 2**14, "64 MB": 2**24}
_COPY = "a copy of 64 MB (torch clone)"


def _few(x: jax.Array) -> jax.Array:
    return x[:8] + 1


def _all(x: jax.Array) -> jax.Array:
    return x + 1


def crossing(effort: Effort) -> list[Measurement]:
    """64 MB aligned in and out, against 64 KB: NOTE [the kernel subtracted]."""
    tensors = {size: torch.randn(count) for size, count in _SIZES.items()}
    return [_inward(tensors, effort), _both_ways(tensors, effort)]


def _inward(tensors: Mapping[str, torch.Tensor], effort: Effort) -> Measurement:
    bridged, jitted = jax2torch(_few), jax.jit(_few)
    steps: dict[str, Step] = {}
    for size, x in tensors.items():
        steps[f"jitted call on a NumPy view, {size}"] = lambda x=x: jitted(x.numpy())
        steps[f"{OURS}, {size}"] = lambda x=x: bridged(x)
    large, small = f"{OURS}, 64 MB", f"{OURS}, 64 KB"
    return Measurement(
        title="64 MB in, 8 numbers out, forward only",
        unit="us",
        values=timed(steps, seconds=effort.seconds(4), scale=1e6),
        reference=small,
        bars=[Bar("as long as 64 KB in, within 1.1x", large, small, 1.1)],
    )


def _both_ways(tensors: Mapping[str, torch.Tensor], effort: Effort) -> Measurement:
    bridged, jitted = jax2torch(_all), jax.jit(_all)
    steps: dict[str, Step] = {_COPY: lambda: tensors["64 MB"].clone()}
    for size, x in tensors.items():
        steps[f"kernel, {size}"] = lambda x=x: jax.block_until_ready(jitted(x.numpy()))
        steps[f"{OURS}, {size}"] = lambda x=x: bridged(x)
    values = timed(steps, seconds=effort.seconds(12), scale=1e3)
    for size in tensors:
        beyond = _difference(values[f"{OURS}, {size}"], values[f"kernel, {size}"])
        values[f"{OURS} beyond the kernel, {size}"] = beyond
    large = f"{OURS} beyond the kernel, 64 MB"
    return Measurement(
        title="64 MB in, 64 MB out, forward only",
        unit="ms",
        values=values,
        reference="kernel, 64 MB",
        bars=[Bar("the kernel subtracted, within a tenth of one copy", large, _COPY, 0.1)],
    )


def _difference(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(ones, others, strict=True)]
