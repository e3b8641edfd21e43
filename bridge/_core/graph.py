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
        operator: The name that its framework gives it: `aten.add.Tensor`.
        args: Numbers, strings, None, names of dtypes, ValueRefs, and sequences of them.
        kwargs: Keyword arguments of the same kinds.
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
