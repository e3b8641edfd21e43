"""Batches that `mx.vmap` gets wrong, computed example by example.

NOTE [wrong batches]
MLX 0.32 writes a value that is no batch into the first example alone, permutes the channels of
grouped convolutions if only their weights are batches, forgets that a matrix is triangular, and
takes an axis for `mx.divmod` from memory that nobody has written. Operations on bits do not repeat
what is no batch, and `!=` forgets a batch on its right side alone. It writes beyond the memory of
an array if what is added to its elements has its examples along another axis than the first, which
shapes tell. And a batch of a custom function has lost its gradient rule. One example after the
other has none of this, and works where `mx.vmap` refuses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import dtype_of
from bridge._core.errors import NoRuleError
from bridge._core.op import Specs
from bridge._sources.mlx.exported import exported, exported_operations
from bridge._sources.mlx.graph_summary import GraphSummary, summarize_graph
from bridge._sources.mlx.random import Fun

Axes = tuple[int | None, ...]
# By what an export calls the operations: whether they are wrong for batches at these inputs.
_WRONG: dict[str, Callable[[Sequence[Any], Sequence[bool]], bool]] = {
    "SliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "DynamicSliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "Convolution": lambda about, batched: about[5] > 1 and not batched[0],
    "Inverse": lambda about, _: about[0],
    "DivMod": lambda *_: True,
    "NotEqual": lambda _, batched: not batched[0],
    "BitwiseBinary": lambda _, batched: not all(batched),
}
# Parts of what a drawing calls them.
_SUSPECTS = ("SliceUpdate", "Convolution", "Inverse", "DivMod", "NotEqual", "Bitwise", "Shift")


def vmap_is_safe(
    fun: Fun, batched: Fun, known: GraphSummary, axes: Axes, primals: Specs, many: Specs, size: int
) -> bool:
    """Whether `mx.vmap` of `fun` over `axes`, which is `batched`, works: NOTE [wrong batches]."""
    if _is_wrong(fun, primals, known, axes):
        return False
    try:
        found = summarize_graph(batched, many, "a batch")
    except (NoRuleError, ValueError, RuntimeError):
        return False
    if found and any("Scatter" in name for name in found.operations):
        return not _is_misplaced(fun, batched, primals, many, size)
    return found is not None


def _is_wrong(fun: Fun, primals: Specs, known: GraphSummary, axes: Axes) -> bool:
    """Whether `mx.vmap` over `axes` would be wrong, or may be: NOTE [wrong batches]."""
    if not any(name in each for name in _SUSPECTS for each in known.operations):
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


def _is_misplaced(fun: Fun, batched: Fun, primals: Specs, many: Specs, size: int) -> bool:
    """Whether the batch of a scatter has its examples elsewhere than in front, or may have."""
    alone, together = exported_operations(fun, primals), exported_operations(batched, many)
    if alone is None or together is None:
        return True
    one, all_ = ([_shapes(s) for s in row if s["name"] == "Scatter"] for row in (alone, together))
    if len(one) != len(all_):
        return True
    expected = [((size, *x), (1, *part)) for x, part in one]
    return any(
        found not in (was, grown) for found, was, grown in zip(all_, one, expected, strict=True)
    )


def _shapes(scatter: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of what is written to, and of each part that is written."""
    x, *indices, updates = (tuple(each[1]) for each in scatter["inputs"])
    return x, updates[len(indices[0]) if indices else 0 :]


def loop_over_examples(
    fun: Fun, axes: Axes, size: int, outputs: Specs, *, dense: bool = False
) -> Fun:
    """`fun` of each example; results are stacked along their first axis.

    Args:
        fun: A function.
        axes: Of each argument the axis of its examples, if it has some.
        size: How many there are.
        outputs: Specs of the results of one.
        dense: Whether examples have to be dense, as for `mx.as_strided`.
    """

    def examples(x: mx.array, axis: int | None) -> list[mx.array]:
        if axis is None:
            return [x] * size
        parts = [mx.squeeze(part, axis) for part in mx.split(x, size, axis)]
        return [*map(mx.contiguous, parts)] if dense else parts

    def run(*xs: mx.array) -> list[mx.array]:
        rows = [examples(x, axis) for x, axis in zip(xs, axes, strict=True)]
        found = [fun(*row) for row in zip(*rows, strict=True)]
        return [mx.stack([*ys]) for ys in zip(*found, strict=True)]

    def nothing(*_: mx.array) -> list[mx.array]:
        return [mx.zeros((0, *spec.shape), dtype_of(spec.dtype)) for spec in outputs]

    return run if size else nothing
