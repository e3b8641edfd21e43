"""Graphs: the operations of a function in order, in no framework's own terms."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bridge._core.spec import ArraySpec


@dataclasses.dataclass(frozen=True, slots=True)
class ValueRef:
    """A reference to an array of a graph: an input, a constant or an output of an operation.

    Attributes:
        value_index: The inputs are counted first, then the constants, then the operations.
        output_index: Which output, if an operation has several.
    """

    value_index: int
    output_index: int | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """An operator applied to values.

    Attributes:
        operator: The name that its framework gives it, `aten.add.Tensor`, or a word of the
            vocabulary of `bridge._lowering`: `add`.
        args: Numbers, strings, None, names of dtypes, ValueRefs, and sequences of them.
        kwargs: Keyword arguments of the same kinds; of a word also Graphs, as bodies of loops.
        output_specs: The spec of the output, or a sequence of specs; None for what is no array.
        operands: The ValueRefs among the arguments, in the order of the inputs of `decompose()`.
        rng_index: How many operations draw random numbers before it; None if it draws none.
        decompose: `() -> Graph` of other operators that computes the same, or None.
    """

    operator: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output_specs: Any
    operands: tuple[ValueRef, ...]
    rng_index: int | None
    decompose: Callable[[], "Graph | None"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """A pure function of arrays as operations in order, with static shapes.

    Attributes:
        inputs: The specs of the arguments.
        constants: NumPy arrays.
        operations: In an order in which they can be executed.
        outputs: The results; None for what is no array.
        rng_input: Position of the input that is the seed of the random numbers, if they have one.
    """

    inputs: tuple[ArraySpec, ...]
    constants: tuple[Any, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[ValueRef | None, ...]
    rng_input: int | None = None

    def __str__(self) -> str:
        """The operations, one a line, with names, shapes and dtypes."""
        return "\n".join(_format_lines(self))


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class MappedGraph:
    """The graph of a function of one example, mapped over an axis of its arguments.

    Attributes:
        example: The function of one example.
        in_axes: For each argument its axis of examples, `None` if all share it.
        out_axes: For each result its axis of examples, `None` for their sum.
        size: How many examples there are.
    """

    example: "Graph | MappedGraph"
    in_axes: tuple[int | None, ...]
    out_axes: tuple[int | None, ...]
    size: int

    @property
    def inputs(self) -> tuple[ArraySpec, ...]:
        """The specs of the arguments."""
        pairs = zip(self.example.inputs, self.in_axes, strict=True)
        # A cotangent that nothing depends on has no spec.
        return tuple(spec and spec.with_axis(axis, self.size) for spec, axis in pairs)

    @property
    def rng_input(self) -> int | None:
        """The position of the input that random numbers follow from; None if there is none."""
        return self.example.rng_input


def _format_lines(graph: Graph) -> list[str]:
    """Return a graph as lines of text; the graphs among its arguments are indented."""
    names = [f"x{i}" for i in range(len(graph.inputs))]
    names += [_format_constant(constant, i) for i, constant in enumerate(graph.constants)]
    arguments = zip(names, graph.inputs, strict=False)
    lines = [f"({', '.join(f'{name}: {spec}' for name, spec in arguments)}) ->"]
    for number, operation in enumerate(graph.operations):
        specs = operation.output_specs
        shown = ", ".join(map(str, specs)) if isinstance(specs, tuple) else str(specs)
        values = [_format_value(arg, names) for arg in operation.args]
        bodies: list[str] = []
        for key, value in operation.kwargs.items():
            graphs = value if isinstance(value, tuple) else (value,)
            if graphs and all(isinstance(body, Graph) for body in graphs):
                bodies += [line for body in graphs for line in (f"{key}", *_format_lines(body))]
            else:
                values.append(f"{key}={_format_value(value, names)}")
        names.append(f"v{number}")
        lines.append(f"    v{number}: {shown} = {operation.operator}({', '.join(values)})")
        lines += [f"        {line}" for line in bodies]
    lines.append(f"    return {', '.join(_format_value(ref, names) for ref in graph.outputs)}")
    return lines


def _format_value(value: Any, names: list[str]) -> str:
    if isinstance(value, ValueRef):
        index = "" if value.output_index is None else f"[{value.output_index}]"
        return names[value.value_index] + index
    if isinstance(value, (tuple, list)):
        return f"({', '.join(_format_value(item, names) for item in value)})"
    return repr(value)


def _format_constant(constant: Any, number: int) -> str:
    """Return a number as it is, and the name of another constant."""
    return str(constant) if constant.ndim == 0 else f"c{number}"
