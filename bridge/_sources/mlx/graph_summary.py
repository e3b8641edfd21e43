"""Summaries of the graphs that functions build before they run on values.

NOTE [looking before the call]
MLX is lazy: run on arrays that cannot be evaluated, a function builds its graph, and what the graph
says holds for every call. A function that looks at values raises there; it is rerun on every call.

NOTE [what compiled functions capture]
A compiled function of MLX that captures an array, rather than taking it as an argument, takes away
the copies and the stopped gradients in the graph that leads to it. So it uses the array that a
transformation has copied and marked, and the gradient by the marked one is 0, unless the call has a
marked argument too and runs uncompiled. In a dry run each primal is the result of a stopped
gradient: what is computed from the array before that one shows such a function. It is run while
MLX keeps every graph, when all arrays count as marked; a compiled function without arguments stays
as it is, and has no derivative by what it captures.

NOTE [gradients of our own]
Only MLX knows whether an output is the only user of its memory, and asking takes one more operation
(NOTE [memory of their own]). A function may have stored what it returns. But MLX makes the
gradients: if each comes from an operation that allocates, and no two from the same one, nobody else
has seen their memory.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS, compute_stream, dtype_of, placeholder
from bridge._arrays.mlx.upstream.dot_graph import Step, read_graph
from bridge._arrays.mlx.upstream.errors import looks_at_values, raise_no_rule
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, detect_rng_use


@dataclasses.dataclass(frozen=True)
class GraphSummary:
    """Facts about the graph of a function: NOTE [looking before the call].

    Attributes:
        outputs: The specs of the outputs.
        dependencies: For each output, the positions of the primals that it depends on.
        operations: The names of all operations.
        operations_in_order: All operations; outputs are named `y_0` and so on, primals `x_0`.
        allocates_outputs: True if each output is the result of an operation that allocates memory
            for it alone: NOTE [gradients of our own].
        uses_global_rng: True if it draws random numbers that follow from no primal.
        captured: Positions of the primals that lose their gradient in a compiled function: NOTE
            [what compiled functions capture].
    """

    outputs: Specs
    dependencies: tuple[frozenset[int], ...]
    operations: frozenset[str]
    operations_in_order: tuple[Step, ...]
    allocates_outputs: bool
    uses_global_rng: bool
    captured: frozenset[int]


def has_float64(primals: Specs) -> bool:
    """Return True if there are float64 arrays, which MLX supports on the CPU only."""
    return any(spec.dtype == "float64" for spec in primals)


def placeholders(primals: Specs) -> list[mx.array]:
    """Make arrays of these specs that nobody can evaluate."""
    return [placeholder(spec.shape, dtype_of(spec.dtype)) for spec in primals]


def summarize_graph(fun: Fun, primals: Specs, name: str) -> GraphSummary | None:
    """Return a summary of the graph of `fun`; None if it looks at values."""
    originals = placeholders(primals)
    with compute_stream(has_float64=has_float64(primals)), dry_run(), raise_no_rule(name):
        xs = separate_nodes(map(mx.stop_gradient, originals))
        try:
            results, uses_rng = detect_rng_use(lambda: fun(*xs))
        except (ValueError, RuntimeError) as error:
            if not looks_at_values(error):
                raise
            return None
        # Each gets a node of its own, since an output may be a primal, or one array twice.
        outputs = [mx.contiguous(y) for y in results]
        specs = tuple(map(ARRAYS.spec, outputs))
        arrays = {"original": originals, "x": xs, "y": outputs}
        named = {f"{kind}_{i}": x for kind, group in arrays.items() for i, x in enumerate(group)}
        steps, captured = _without_markers(read_graph(outputs, named) if outputs else ())
        facts = _analyze(steps, len(xs), len(outputs))
        return GraphSummary(outputs=specs, uses_global_rng=uses_rng, captured=captured, **facts)


def _without_markers(steps: Sequence[Step]) -> tuple[list[Step], frozenset[int]]:
    """Return the steps that start at the primals, and the positions of those that are captured.

    NOTE [what compiled functions capture].
    """
    own: list[Step] = []
    captured = set[str]()
    for step in steps:
        originals = [x for x in step.inputs if x.startswith("original_")]
        if originals and step.name == "StopGradient":
            continue
        captured.update(originals)
        if not any(y.startswith("x_") for y in step.outputs):
            inputs = tuple([x.replace("original_", "x_") for x in step.inputs])
            own.append(dataclasses.replace(step, inputs=inputs))
    return own, frozenset(int(x.removeprefix("original_")) for x in captured)


# Some of the operations that allocate, and that gradients often end in.
ALLOCATING = {"Add", "AddMM", "Divide", "Matmul", "Multiply", "Negative", "Select", "Subtract"}


def _analyze(steps: Sequence[Step], primals: int, outputs: int) -> dict[str, Any]:
    """Return the fields of a `GraphSummary` that follow from its operations."""
    argnums: dict[str, frozenset[int]] = {f"x_{i}": frozenset([i]) for i in range(primals)}
    producers: dict[str, Step] = {}
    for step in steps:
        union = frozenset[int]().union(*(argnums.get(x, frozenset()) for x in step.inputs))
        for y in step.outputs:
            argnums[y], producers[y] = argnums.get(y, frozenset()) | union, step
    names = [f"y_{i}" for i in range(outputs)]
    # The arrays that `mx.contiguous` was applied to.
    origins = {producers[y].inputs[-1] for y in names}
    origin_operations = {producers[x].name if x in producers else None for x in origins}
    return {
        "dependencies": tuple(argnums.get(y, frozenset()) for y in names),
        "operations": frozenset(step.name for step in steps),
        "operations_in_order": tuple(steps),
        "allocates_outputs": bool(names)
        and len(origins) == len(names)
        and origin_operations <= ALLOCATING,
    }
