"""Detection of complex numbers among the operands of operations.

NOTE [dtypes of a graph]
An exported graph has dtypes. A graph with a custom function cannot be exported, but a batch of it
can, which has the operations inside of the function in its place. If there is no batch either, MLX
has exported at least the constants before it fails. Then an array counts as complex if it may
follow from complex arrays, from a Fourier transform, or from a conversion that was not exported,
except from one of a comparison.
"""

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx.upstream.dot_graph import COMPARISONS, Step
from bridge._core.op import Specs
from bridge._sources.mlx.export import export_batched_operations, export_operations, try_export
from bridge._sources.mlx.graph_summary import GraphSummary
from bridge._sources.mlx.random import Fun

_SOURCES = {"FFT", "View"}
_SINKS = {"Abs", "Real", "Imag", *COMPARISONS}


def has_complex_operand(
    fun: Fun,
    primals: Specs,
    summary: GraphSummary,
    name_parts: Collection[str],
    exported_names: Collection[str],
) -> bool:
    """Return True if an operation of these names has a complex operand: NOTE [dtypes of a graph].

    Args:
        fun: A function.
        primals: The specs of its primals.
        summary: A summary of its graph.
        name_parts: Parts of the names of operations in its graph.
        exported_names: The names of the same operations in an export.
    """
    operations = export_operations(fun, primals) or export_batched_operations(fun, primals)
    if operations is not None:
        selected = [operation for operation in operations if operation["name"] in exported_names]
        return any(mx.complex64 in [x[2] for x in operation["inputs"]] for operation in selected)
    possible = _possibly_complex(fun, primals, summary)
    return any(
        not possible.isdisjoint(step.inputs)
        for step in summary.operations_in_order
        if any(name in step.name for name in name_parts)
    )


def _possibly_complex(fun: Fun, primals: Specs, summary: GraphSummary) -> set[str]:
    """Return the names of the arrays of a graph that may be complex."""
    steps = summary.operations_in_order
    arguments = {f"x_{i}": spec.dtype == "complex64" for i, spec in enumerate(primals)}
    outputs = {x for step in steps for x in step.outputs}
    inputs = {x for step in steps for x in step.inputs}
    records, _ = try_export(fun, primals)
    constant = _may_have_complex_constants(records)
    real = _conversions_are_real(records, [step for step in steps if step.name == "AsType"])
    possible = {x for x in inputs - outputs if arguments.get(x, constant)}
    compared = {x for step in steps if step.name in COMPARISONS for x in step.outputs}
    for step in steps:
        converted = not real and step.name == "AsType" and compared.isdisjoint(step.inputs)
        follows = step.name not in _SINKS and not possible.isdisjoint(step.inputs)
        if converted or follows or step.name in _SOURCES:
            possible.update(step.outputs)
    return possible


def _may_have_complex_constants(records: Sequence[dict[str, Any]]) -> bool:
    """Return True if a constant is complex, or if they were not exported."""
    constants = [record["constants"] for record in records if record["type"] == "constants"]
    return not constants or any(x.dtype == mx.complex64 for _, x in constants[0])


def _conversions_are_real(records: Sequence[dict[str, Any]], conversions: Sequence[Step]) -> bool:
    """Return True if all conversions were exported, and none of them is to complex numbers."""
    dtypes = [record["arguments"] for record in records if record.get("name") == "AsType"]
    return len(dtypes) == len(conversions) and [mx.complex64] not in dtypes
