"""Batches that `mx.vmap` gets wrong, computed example by example.

NOTE [wrong batches]
MLX 0.32 writes a value that is no batch into the first example only, permutes the channels of
grouped convolutions if only their weights are batches, forgets that a matrix is triangular, and
reads an axis for `mx.divmod` from uninitialized memory. Operations on bits do not repeat an operand
that is no batch, and `!=` forgets a batch that is only its right operand. A scatter writes beyond
the memory of an array if the updates have their examples along another axis than the first, which
their shapes show. And a batch of a custom function has lost its gradient rule. A loop over the
examples has none of these bugs, and works where `mx.vmap` refuses.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import dtype_of
from bridge._core.errors import NoRuleError
from bridge._core.op import Axes, Specs
from bridge._sources.mlx.export import export, export_operations
from bridge._sources.mlx.graph_summary import GraphSummary, summarize_graph
from bridge._sources.mlx.random import Fun

# For operations as an export names them: from their arguments, and from which of their inputs are
# batches, to True if `mx.vmap` is wrong.
_WRONG: dict[str, Callable[[Sequence[Any], Sequence[bool]], bool]] = {
    "SliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "DynamicSliceUpdate": lambda _, batched: batched[0] and not batched[1],
    "Convolution": lambda arguments, batched: arguments[5] > 1 and not batched[0],
    "Inverse": lambda arguments, _: arguments[0],
    "DivMod": lambda *_: True,
    "NotEqual": lambda _, batched: not batched[0],
    "BitwiseBinary": lambda _, batched: not all(batched),
}
# Parts of the names that a graph summary has for them.
_SUSPECTS = ("SliceUpdate", "Convolution", "Inverse", "DivMod", "NotEqual", "Bitwise", "Shift")


def vmap_is_safe(
    fun: Fun,
    batched: Fun,
    summary: GraphSummary,
    axes: Axes,
    specs: tuple[Specs, Specs],
    size: int,
) -> bool:
    """Return True if `batched`, which is `mx.vmap` of `fun`, is right: NOTE [wrong batches].

    Args:
        fun: A function.
        batched: `mx.vmap` of it.
        summary: A summary of the graph of `fun`.
        axes: For each primal the axis of its examples, if it has one.
        specs: The specs of the primals of `fun`, and of those of `batched`.
        size: The number of examples.
    """
    primals, batched_primals = specs
    if _has_wrong_operation(fun, primals, summary, axes):
        return False
    try:
        batched_summary = summarize_graph(batched, batched_primals, "a batch")
    except (NoRuleError, ValueError, RuntimeError):
        return False
    if batched_summary and any("Scatter" in name for name in batched_summary.operations):
        return not _has_wrong_scatter((fun, primals), (batched, batched_primals), size)
    return batched_summary is not None


def _has_wrong_operation(fun: Fun, primals: Specs, summary: GraphSummary, axes: Axes) -> bool:
    """Return True if `mx.vmap` of an operation is wrong, or may be: NOTE [wrong batches]."""
    if not any(part in name for part in _SUSPECTS for name in summary.operations):
        return False
    records = export(fun, primals)
    if records is None:
        return True
    batched: set[str] = set()
    for record in records:
        inputs = [x[0] for x in record.get("inputs", ())]
        if record["type"] == "inputs":
            batched = {x for x, axis in zip(inputs, axes, strict=True) if axis is not None}
        if record["type"] != "primitive" or batched.isdisjoint(inputs):
            continue
        is_wrong = _WRONG.get(record["name"])
        if is_wrong and is_wrong(record["arguments"], [x in batched for x in inputs]):
            return True
        batched |= {y[0] for y in record["outputs"]}
    return False


def _has_wrong_scatter(single: tuple[Fun, Specs], batch: tuple[Fun, Specs], size: int) -> bool:
    """Return True if a scatter in `batch` has its examples along another axis, or may have."""
    single_operations, batch_operations = export_operations(*single), export_operations(*batch)
    if single_operations is None or batch_operations is None:
        return True
    single_shapes, batch_shapes = (
        [_scatter_shapes(step) for step in operations if step["name"] == "Scatter"]
        for operations in (single_operations, batch_operations)
    )
    if len(single_shapes) != len(batch_shapes):
        return True
    expected = [((size, *x), (1, *update)) for x, update in single_shapes]
    return any(
        shapes not in (unbatched, batched)
        for shapes, unbatched, batched in zip(batch_shapes, single_shapes, expected, strict=True)
    )


def _scatter_shapes(scatter: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of the array that is written to, and of each update."""
    x, *indices, updates = (tuple(operand[1]) for operand in scatter["inputs"])
    return x, updates[len(indices[0]) if indices else 0 :]


def loop_over_examples(
    fun: Fun, axes: Axes, size: int, outputs: Specs, *, dense_examples: bool = False
) -> Fun:
    """Return `fun` applied to each example; outputs are stacked along their first axis.

    Args:
        fun: A function.
        axes: For each primal the axis of its examples, if it has one.
        size: The number of examples.
        outputs: The specs of the outputs of one example.
        dense_examples: True if examples have to be dense, as for `mx.as_strided`.
    """

    def split(x: mx.array, axis: int | None) -> list[mx.array]:
        if axis is None:
            return [x] * size
        examples = [mx.squeeze(part, axis) for part in mx.split(x, size, axis)]
        return [*map(mx.contiguous, examples)] if dense_examples else examples

    def run(*xs: mx.array) -> list[mx.array]:
        examples = [split(x, axis) for x, axis in zip(xs, axes, strict=True)]
        results = [fun(*example) for example in zip(*examples, strict=True)]
        return [mx.stack([*ys]) for ys in zip(*results, strict=True)]

    def return_empty(*_: mx.array) -> list[mx.array]:
        return [mx.zeros((0, *spec.shape), dtype_of(spec.dtype)) for spec in outputs]

    return run if size else return_empty
