"""A function written out: its operators one after the other, in no framework's terms."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bridge._core.spec import ArraySpec


@dataclasses.dataclass(frozen=True, slots=True)
class ValueRef:
    """An array of a listing: an input, a constant or the result of an instruction.

    Attributes:
        index: Which one, inputs counted first, then constants, then instructions.
        output_index: Which of several results, if an instruction has several.
    """

    index: int
    output_index: int | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """An operator applied to values.

    Attributes:
        operator: Its name, as its framework spells it: `aten.add.Tensor`.
        args: Numbers, strings, None, dtypes by name, Values, and sequences of them.
        kwargs: The same by keyword.
        output_specs: The spec of the result, specs of several; `None` for what is no array.
        operands: The Values among the arguments, in the order in which `decompose` takes them.
        rng_index: For an operator that draws random numbers, how many others draw before it.
        decompose: The same in terms of other operators, `None` where there is no such thing.
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
    """A pure function of arrays as instructions, with static shapes.

    Attributes:
        inputs: Of the arguments.
        constants: NumPy arrays.
        operations: In an order in which they can be evaluated.
        outputs: What is returned, `None` for what is no array.
        rng_input: Position of the input that random numbers follow from, if there is one.
    """

    inputs: tuple[ArraySpec, ...]
    constants: tuple[Any, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[ValueRef | None, ...]
    rng_input: int | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class MappedGraph:
    """A function written out for one example, of an axis of its arguments.

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
        """Of the arguments."""
        pairs = zip(self.example.inputs, self.in_axes, strict=True)
        # A cotangent that nothing depends on has no spec.
        return tuple(spec and spec.with_axis(axis, self.size) for spec, axis in pairs)

    @property
    def rng_input(self) -> int | None:
        """Position of the input that random numbers follow from, if there is one."""
        return self.example.rng_input
