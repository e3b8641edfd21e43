"""Batches that `mx.vmap` gets wrong, computed example by example.

NOTE [wrong batches]
MLX 0.32 writes a value that is no batch into the first example alone, permutes the channels of
grouped convolutions if only their weights are batches, forgets that a matrix is triangular, and
takes an axis for `mx.divmod` from memory that nobody has written. And a batch of a custom function
has lost its gradient rule. One example after the other has none of this.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import dtype_of
from bridge._op import Specs
from bridge._sources.mlx._outline import Outline
from bridge._sources.mlx._random import Fun
from bridge._sources.mlx._wrong import exported

Axes = tuple[int | None, ...]
# By what an export calls the operations: whether they are wrong for batches at these inputs.
_WRONG: dict[str, Callable[[Sequence[Any], Sequence[bool]], bool]] = {
    "SliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "DynamicSliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "Convolution": lambda about, batched: about[5] > 1 and not batched[0],
    "Inverse": lambda about, _: about[0],
    "DivMod": lambda *_: True,
}


def is_wrong(fun: Fun, primals: Specs, known: Outline, axes: Axes) -> bool:
    """Whether `mx.vmap` over `axes` would be wrong, or may be: NOTE [wrong batches]."""
    if not any(name in each for name in _WRONG for each in known.operations):
        return False
    notes = exported(fun, primals)
    if notes is None:
        return True
    batched: set[str] = set()
    for note in notes:
        inputs = [x[0] for x in note.get("inputs", ())]
        if note["type"] == "inputs":
            batched = {x for x, axis in zip(inputs, axes, strict=True) if axis is not None}
        if note["type"] != "primitive" or batched.isdisjoint(inputs):
            continue
        wrong = _WRONG.get(note["name"])
        if wrong and wrong(note["arguments"], [x in batched for x in inputs]):
            return True
        batched |= {y[0] for y in note["outputs"]}
    return False


def one_by_one(fun: Fun, axes: Axes, size: int, outputs: Specs) -> Fun:
    """`fun` of each example; results are stacked along their first axis."""

    def examples(x: mx.array, axis: int | None) -> list[mx.array]:
        if axis is None:
            return [x] * size
        return [mx.squeeze(part, axis) for part in mx.split(x, size, axis)]

    def run(*xs: mx.array) -> list[mx.array]:
        rows = [examples(x, axis) for x, axis in zip(xs, axes, strict=True)]
        found = [fun(*row) for row in zip(*rows, strict=True)]
        return [mx.stack([*ys]) for ys in zip(*found, strict=True)]

    def nothing(*_: mx.array) -> list[mx.array]:
        return [mx.zeros((0, *spec.shape), dtype_of(spec.dtype)) for spec in outputs]

    return run if size else nothing
