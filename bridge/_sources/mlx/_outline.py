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
import io
import re
from collections.abc import Sequence

import mlx.core as mx

from bridge._arrays.mlx import FACE as ARRAYS, computing, dtype_of, placeholder
from bridge._op import Specs
from bridge._sources.mlx._lacking import explained, looks_at_values
from bridge._sources.mlx._looking import looking
from bridge._sources.mlx._random import Fun, has_drawn


@dataclasses.dataclass(frozen=True)
class Outline:
    """What a graph says: NOTE [looking before the call].

    Attributes:
        outputs: Their specs.
        reach: For each output the positions of the primals it depends on.
        operations: The names of all operations.
        steps: How many operations there are.
        allocated: Whether each output is the result of an operation that allocates memory for it
            alone: NOTE [gradients of our own].
        draws: Whether random numbers are drawn that follow from no primal.
    """

    outputs: Specs
    reach: tuple[frozenset[int], ...]
    operations: frozenset[str]
    steps: int
    allocated: bool
    draws: bool


def is_wide(primals: Specs) -> bool:
    """Whether there are float64 arrays, which MLX computes with on the CPU alone."""
    return any(spec.dtype == "float64" for spec in primals)


def placeholders(primals: Specs) -> list[mx.array]:
    """Arrays of these specs, which nobody can evaluate."""
    return [placeholder(spec.shape, dtype_of(spec.dtype)) for spec in primals]


def outline(fun: Fun, primals: Specs, name: str) -> Outline | None:
    """What is known of `fun`; `None` if it looks at values."""
    xs = placeholders(primals)
    with computing(wide=is_wide(primals)), looking(), explained(name):
        try:
            found, drew = has_drawn(lambda: fun(*xs))
        except (ValueError, RuntimeError) as error:
            if not looks_at_values(error):
                raise
            return None
        # A node of its own for each: an output may be a primal, or one array twice.
        outputs = [mx.contiguous(y) for y in found]
        specs = tuple(map(ARRAYS.spec, outputs))
        return Outline(specs, *_read(xs, outputs), drew)


_EDGE = re.compile(r'^"?(\w+)"? -> "?(\w+)"?$')
_OPERATION = re.compile(r'^\{ (\d+) \[label ="([^"]+)"')
# Some that do, and that gradients often end in.
ALLOCATING = {"Add", "AddMM", "Divide", "Matmul", "Multiply", "Negative", "Select", "Subtract"}


def _read(
    xs: Sequence[mx.array], ys: Sequence[mx.array]
) -> tuple[tuple[frozenset[int], ...], frozenset[str], int, bool]:
    """What the graph of `ys`, nodes of their own, says of them: NOTE [looking before the call]."""
    if not ys:
        return (), frozenset(), 0, False
    text = io.StringIO()
    names = {f"x_{i}": x for i, x in enumerate(xs)} | {f"y_{i}": y for i, y in enumerate(ys)}
    mx.export_to_dot(text, *ys, **names)
    reach: dict[str, frozenset[int]] = {f"x_{i}": frozenset([i]) for i in range(len(xs))}
    operations: dict[str, str] = {}
    before: dict[str, str] = {}  # of an array its operation, of an operation its last argument
    for line in text.getvalue().splitlines():  # in the order in which it is computed
        if edge := _EDGE.match(line):
            start, end = edge.groups()
            reach[end] = reach.get(end, frozenset()) | reach.get(start, frozenset())
            before[end] = start
        elif operation := _OPERATION.match(line):
            operations[operation[1]] = operation[2]
    reached = tuple(reach.get(f"y_{i}", frozenset()) for i in range(len(ys)))
    made = {before[before[f"y_{i}"]] for i in range(len(ys))}
    makers = {operations.get(before.get(array, "")) for array in made}
    allocated = len(made) == len(ys) and makers <= ALLOCATING
    return reached, frozenset(operations.values()), len(operations), allocated
