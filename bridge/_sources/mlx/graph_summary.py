"""What is known of a function before it runs on values.

NOTE [looking before the call]
MLX is lazy: run on arrays that cannot be evaluated, a function builds its graph, and what the graph
says holds for every call. One that looks at values is found out by the error. It is run anew on
each call.

NOTE [gradients of our own]
Whether memory belongs to a result alone is only known to MLX, and to ask takes an operation more
(NOTE [memory of their own]). What a function returns it may have kept. But a gradient is made by
MLX, and if by an operation that allocates, of two that are not the same, nobody else has seen it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS, compute_stream, dtype_of, placeholder
from bridge._core.op import Specs
from bridge._sources.mlx.dot_graph import Step, read_graph
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.missing_rules import looks_at_values, raise_no_rule
from bridge._sources.mlx.random import Fun, detect_rng_use


@dataclasses.dataclass(frozen=True)
class GraphSummary:
    """What a graph says: NOTE [looking before the call].

    Attributes:
        outputs: Their specs.
        dependencies: For each output the positions of the primals it depends on.
        operations: The names of all operations.
        operations_in_order: They, with results named `y_0` and so on, and primals `x_0` and so on.
        allocates_outputs: Whether each output is the result of an operation that allocates memory
            for it alone: NOTE [gradients of our own].
        uses_rng: Whether random numbers are drawn that follow from no primal.
    """

    outputs: Specs
    dependencies: tuple[frozenset[int], ...]
    operations: frozenset[str]
    operations_in_order: tuple[Step, ...]
    allocates_outputs: bool
    uses_rng: bool


def has_float64(primals: Specs) -> bool:
    """Whether there are float64 arrays, which MLX computes with on the CPU alone."""
    return any(spec.dtype == "float64" for spec in primals)


def placeholders(primals: Specs) -> list[mx.array]:
    """Arrays of these specs, which nobody can evaluate."""
    return [placeholder(spec.shape, dtype_of(spec.dtype)) for spec in primals]


def summarize_graph(fun: Fun, primals: Specs, name: str) -> GraphSummary | None:
    """What is known of `fun`; `None` if it looks at values."""
    xs = placeholders(primals)
    with compute_stream(has_float64=has_float64(primals)), dry_run(), raise_no_rule(name):
        try:
            found, drew = detect_rng_use(lambda: fun(*xs))
        except (ValueError, RuntimeError) as error:
            if not looks_at_values(error):
                raise
            return None
        # A node of its own for each: an output may be a primal, or one array twice.
        outputs = [mx.contiguous(y) for y in found]
        specs = tuple(map(ARRAYS.spec, outputs))
        named = {f"x_{i}": x for i, x in enumerate(xs)}
        named |= {f"y_{i}": y for i, y in enumerate(outputs)}
        steps = read_graph(outputs, named) if outputs else ()
        return GraphSummary(outputs=specs, uses_rng=drew, **_read(steps, len(xs), len(outputs)))


# Some that do, and that gradients often end in.
ALLOCATING = {"Add", "AddMM", "Divide", "Matmul", "Multiply", "Negative", "Select", "Subtract"}


def _read(steps: Sequence[Step], primals: int, outputs: int) -> dict[str, Any]:
    """What the `steps` that lead to `outputs` say of them: NOTE [looking before the call]."""
    reach: dict[str, frozenset[int]] = {f"x_{i}": frozenset([i]) for i in range(primals)}
    maker: dict[str, Step] = {}
    for step in steps:
        together = frozenset[int]().union(*(reach.get(x, frozenset()) for x in step.inputs))
        for y in step.outputs:
            reach[y], maker[y] = reach.get(y, frozenset()) | together, step
    names = [f"y_{i}" for i in range(outputs)]
    # Behind the nodes of their own.
    origins = {maker[y].inputs[-1] for y in names}
    makers = {maker[x].name if x in maker else None for x in origins}
    return {
        "dependencies": tuple(reach.get(y, frozenset()) for y in names),
        "operations": frozenset(step.name for step in steps),
        "operations_in_order": tuple(steps),
        "allocates_outputs": bool(names) and len(origins) == len(names) and makers <= ALLOCATING,
    }
