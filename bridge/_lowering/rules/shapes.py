"""Words that move elements, whatever these are."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction

Compute = Callable[..., Any]
Padding = Sequence[tuple[int, int, int]]  # for each axis low, high and interior


def _reshape(i: Instruction, f: Operations) -> Compute:
    return lambda x: f.reshape(x, i.shape)


def _transpose(i: Instruction, f: Operations) -> Compute:
    return lambda x: f.permute(x, i["permutation"])


def _broadcast(i: Instruction, f: Operations) -> Compute:
    aligned = [1] * len(i.shape)
    for axis, size in zip(i["broadcast_dimensions"], i.inputs[0].shape, strict=True):
        aligned[axis] = size
    return lambda x: f.broadcast(f.reshape(x, aligned), i.shape)


def _concatenate(i: Instruction, f: Operations) -> Compute:
    return lambda *xs: f.concatenate(xs, i["dimension"])


def _split(i: Instruction, f: Operations) -> Compute:
    shape, axis = i.inputs[0].shape, i["axis"]
    edges = itertools.pairwise(itertools.accumulate(i["sizes"], initial=0))
    bounds = [(_replaced([0] * len(shape), axis, a), _replaced(shape, axis, b)) for a, b in edges]
    strides = [1] * len(shape)
    return lambda x: [f.slice(x, low, high, strides) for low, high in bounds]


def _replaced(values: Sequence[int], position: int, value: int) -> list[int]:
    return [*values[:position], value, *values[position + 1 :]]


def _slice(i: Instruction, f: Operations) -> Compute:
    strides = i["strides"] or [1] * len(i.shape)
    return lambda x: f.slice(x, i["start_indices"], i["limit_indices"], strides)


def _reverse(i: Instruction, f: Operations) -> Compute:
    axes = i["dimensions"]
    return (lambda x: f.flip(x, axes)) if axes else (lambda x: x)


def _iota(i: Instruction, f: Operations) -> Compute:
    shape, axis = i.shape, i["dimension"]
    aligned = _replaced([1] * len(shape), axis, shape[axis])
    return lambda like: f.broadcast(f.reshape(f.arange(shape[axis], i.dtype, like), aligned), shape)


def _empty(i: Instruction, f: Operations) -> Compute:
    return lambda like: f.full(i.shape, 0, i.dtype, like)


def _pad(i: Instruction, f: Operations) -> Compute:
    config = i["padding_config"]
    return lambda x, value: padded(x, value, config, f)


def padded(x: Any, value: Any, config: Padding, f: Operations) -> Any:
    """Return `x` with `value` between its elements and around them; less where that is negative."""
    for axis, (_, _, interior) in enumerate(config):
        if interior and f.shape(x)[axis] > 1:
            x = _spread(x, value, axis, interior, f)
    shape = f.shape(x)
    low = [max(-c[0], 0) for c in config]
    high = [max(n - max(-c[1], 0), a) for n, c, a in zip(shape, config, low, strict=True)]
    if any(low) or tuple(high) != tuple(shape):
        x = f.slice(x, low, high, [1] * len(shape))
    low, high = [max(c[0], 0) for c in config], [max(c[1], 0) for c in config]
    return f.pad(x, value, low, high) if any(low) or any(high) else x


def _spread(x: Any, value: Any, axis: int, interior: int, f: Operations) -> Any:
    """Return `x` with `value` between its elements along an axis."""
    before, size, after = f.shape(x)[:axis], f.shape(x)[axis], f.shape(x)[axis + 1 :]
    rank = len(before) + len(after) + 2
    gaps = f.broadcast(f.reshape(value, [1] * rank), (*before, size, interior, *after))
    column = f.reshape(x, (*before, size, 1, *after))
    spread = f.concatenate([column, gaps], axis + 1)
    spread = f.reshape(spread, (*before, size * (interior + 1), *after))
    shape = f.shape(spread)
    limits = _replaced(shape, axis, shape[axis] - interior)
    return f.slice(spread, [0] * len(shape), limits, [1] * len(shape))


RULES = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "rev": _reverse,
    "iota": _iota,
    "empty": _empty,
    "pad": _pad,
}
