"""Tell whether operations compute on complex numbers.

NOTE [dtypes of a graph]
A graph that is exported tells its dtypes. One with a custom function is not exported, but a batch
of it, which has what is in the function in its place; and where there is no batch either, the
constants are told before MLX gives up. Then complex is what may follow from complex arrays, from a
Fourier transform, or from a conversion that was not told, if not of a comparison.
"""

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx

from bridge._core.op import Specs
from bridge._sources.mlx.dot_graph import COMPARISONS, Step
from bridge._sources.mlx.exported import exported_batch_operations, exported_operations, try_export
from bridge._sources.mlx.graph_summary import GraphSummary
from bridge._sources.mlx.random import Fun

_SOURCES = {"FFT", "View"}
_SINKS = {"Abs", "Real", "Imag", *COMPARISONS}


def is_complex(
    fun: Fun, primals: Specs, known: GraphSummary, drawn: Collection[str], exported: Collection[str]
) -> bool:
    """Whether an operation of these names does: NOTE [dtypes of a graph].

    Args:
        fun: A function.
        primals: Specs of its arguments.
        known: What its drawing says.
        drawn: Parts of the names as a drawing has them.
        exported: The names as an export has them.
    """
    told = exported_operations(fun, primals) or exported_batch_operations(fun, primals)
    if told is not None:
        named = [step for step in told if step["name"] in exported]
        return any(mx.complex64 in [x[2] for x in step["inputs"]] for step in named)
    possible = _possible(fun, primals, known)
    return any(
        not possible.isdisjoint(step.inputs)
        for step in known.operations_in_order
        if any(name in step.name for name in drawn)
    )


def _possible(fun: Fun, primals: Specs, known: GraphSummary) -> set[str]:
    """The arrays of a drawing that may be complex."""
    arguments = {f"x_{i}": spec.dtype == "complex64" for i, spec in enumerate(primals)}
    made = {x for step in known.operations_in_order for x in step.outputs}
    used = {x for step in known.operations_in_order for x in step.inputs}
    notes, _ = try_export(fun, primals)
    constant = _has_complex_constants(notes)
    real = _are_real(notes, [step for step in known.operations_in_order if step.name == "AsType"])
    possible = {x for x in used - made if arguments.get(x, constant)}
    compared = {
        x for step in known.operations_in_order if step.name in COMPARISONS for x in step.outputs
    }
    for step in known.operations_in_order:
        converted = not real and step.name == "AsType" and compared.isdisjoint(step.inputs)
        followed = step.name not in _SINKS and not possible.isdisjoint(step.inputs)
        if converted or followed or step.name in _SOURCES:
            possible.update(step.outputs)
    return possible


def _has_complex_constants(notes: Sequence[dict[str, Any]]) -> bool:
    constants = [note["constants"] for note in notes if note["type"] == "constants"]
    return not constants or any(x.dtype == mx.complex64 for _, x in constants[0])


def _are_real(notes: Sequence[dict[str, Any]], conversions: Sequence[Step]) -> bool:
    """Whether MLX has told of all conversions before it gave up, and none is to complex numbers."""
    told = [note["arguments"] for note in notes if note.get("name") == "AsType"]
    return len(told) == len(conversions) and [mx.complex64] not in told
