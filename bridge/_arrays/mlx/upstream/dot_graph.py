"""The graph of MLX, read from the DOT text that MLX writes of it; its format is required.

NOTE [one primitive, several operations]
MLX writes an operation as a block of lines: its primitive's number and name, then an edge from each
input, then an edge to each output. The number is no identity. The operations of all calls of a
compiled function, as `mlx.nn.relu` is one, share their primitives, so that it occurs in several
blocks: only the place of an edge tells which operation it belongs to. An operation that was lost
would cost the gradients of all that comes before it, so that a graph with a gap is refused.
"""

import dataclasses
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import mlx.core as mx


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of a graph.

    Attributes:
        name: The name of the operation.
        inputs: The names of its arguments, in order.
        outputs: The names of its results, unused ones included.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_EDGE = re.compile(r'^"?(\w+)"? -> "?(\w+)"?$')
_SOURCE = re.compile(r'^\{ rank=source; "?(\w+)"?; \}$')
_OPERATION = re.compile(r'^\{ (\d+) \[label ="([^"]+)"')
COMPARISONS = {
    *("Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"),
    *("LogicalAnd", "LogicalNot", "LogicalOr"),
}
# Operations whose results have no derivative by anything.
_STEPWISE = COMPARISONS | {"ArgPartition", "ArgReduce", "ArgSort", "StopGradient"}


_MOST_NAMES = 1000  # MLX takes names as keyword arguments, of which nanobind takes 1,024


def graph_text(*ys: mx.array, **names: mx.array) -> str:
    """Return the graph of `ys` as DOT, with names for some arrays."""
    text = io.StringIO()
    mx.export_to_dot(text, *ys, **names)
    return text.getvalue()


def read_graph(ys: Sequence[mx.array], names: Mapping[str, mx.array]) -> tuple[Step, ...]:
    """Return the operations that lead to `ys`, in an order in which they can be computed."""
    items = iter(names.items())
    steps = _read_graph(ys, dict(itertools.islice(items, _MOST_NAMES)))
    while part := dict(itertools.islice(items, _MOST_NAMES)):
        # The same graph in the same order, with names for others of its arrays.
        pairs = zip(_arrays(steps), _arrays(_read_graph(ys, part)), strict=True)
        renamed = {before: name for before, name in pairs if name in part}
        rename = lambda arrays, renamed=renamed: tuple([renamed.get(x, x) for x in arrays])
        steps = tuple([Step(s.name, rename(s.inputs), rename(s.outputs)) for s in steps])
    return steps


def _arrays(steps: Iterable[Step]) -> list[str]:
    return [x for step in steps for x in (*step.inputs, *step.outputs)]


def _read_graph(ys: Sequence[mx.array], names: Mapping[str, mx.array]) -> tuple[Step, ...]:
    steps: list[tuple[str, list[str], list[str]]] = []
    number, computed = "", set[str]()
    for line in graph_text(*ys, **names).splitlines():
        if source := _SOURCE.match(line):
            computed.add(source.group(1))
        elif operation := _OPERATION.match(line):
            number, name = operation.groups()
            steps.append((name, [], []))
        elif edge := _EDGE.match(line):
            start, end = edge.groups()
            if end == number and start in computed:
                steps[-1][1].append(start)
            elif start == number:
                steps[-1][2].append(end)
                computed.add(end)
            else:
                raise RuntimeError(f"the graph of this version of MLX cannot be read, at {line!r}.")
    return tuple([Step(name, tuple(inputs), tuple(outputs)) for name, inputs, outputs in steps])


def active_arrays(
    steps: Iterable[Step], wrt: Iterable[str], *, in_custom_functions: bool = False
) -> set[str]:
    """Return the arrays whose derivatives by the arrays named `wrt` MLX computes.

    Args:
        steps: The operations.
        wrt: The names of the arrays to differentiate by.
        in_custom_functions: True to look into custom functions too, whose results have stopped
            gradients.
    """
    steps = [*steps]
    inside = {x for s in steps if s.name == "CustomTransforms" for x in s.inputs}
    inside = inside if in_custom_functions else set[str]()
    active = set(wrt)
    for step in steps:
        stopped = step.name in _STEPWISE and inside.isdisjoint(step.outputs)
        if not stopped and not active.isdisjoint(step.inputs):
            active.update(step.outputs)
    return active


def is_same_node(x: mx.array, y: mx.array) -> bool:
    """Return True if two objects are one array of a graph."""
    return '"first"' not in graph_text(x, y, first=x, second=y)  # one array has one name in it


def have_same_nodes(xs: Sequence[mx.array], ys: Sequence[mx.array]) -> bool:
    """Return True if all objects of `xs` are the same arrays of a graph as those of `ys`."""
    for i in range(0, len(xs), _MOST_NAMES // 2):
        part, others = xs[i : i + _MOST_NAMES // 2], ys[i : i + _MOST_NAMES // 2]
        names = {f"first{j}": x for j, x in enumerate(part)}
        names |= {f"second{j}": y for j, y in enumerate(others)}
        if '"first' in graph_text(*part, *others, **names):  # one array has one name in it
            return False
    return True
