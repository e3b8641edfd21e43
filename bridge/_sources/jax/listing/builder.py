"""The building of a graph, an operation after the other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge._core.graph import Graph, Operation, ValueRef
from bridge._core.spec import ArraySpec
from bridge._lowering.vocabulary import check_word

Specs = Sequence[ArraySpec]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of a graph that is being built.

    Attributes:
        spec: Its shape and dtype.
        kind: Where `index` counts: `input`, `constant` or `operation`.
        index: Its number among those.
        output_index: Which output, if an operation has several.
    """

    spec: ArraySpec
    kind: str
    index: int
    output_index: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    word: str
    operands: tuple[Value, ...]
    parameters: Mapping[str, Any]
    output_specs: tuple[ArraySpec, ...]


class GraphBuilder:
    """A graph whose operations are added one by one."""

    def __init__(self, input_specs: Specs) -> None:
        self.inputs = [Value(spec, "input", i) for i, spec in enumerate(input_specs)]
        self._constants: list[Any] = []
        self._numbers: dict[Any, Value] = {}
        self._entries: list[_Entry] = []

    def add_constant(self, x: Any) -> Value:
        """Add an array; equal numbers are one constant."""
        array = np.asarray(x)
        key = (array.dtype.name, array.tobytes()) if array.ndim == 0 else None
        if key in self._numbers:
            return self._numbers[key]
        spec = ArraySpec(tuple(array.shape), array.dtype.name)
        value = Value(spec, "constant", len(self._constants))
        self._constants.append(array)
        if key is not None:
            self._numbers[key] = value
        return value

    def constant_of(self, value: Value) -> Any:
        """Return the array that `value` is; None unless it is a constant."""
        return self._constants[value.index] if value.kind == "constant" else None

    def add(
        self,
        word: str,
        operands: Sequence[Value],
        output_specs: Specs,
        /,
        **parameters: Any,
    ) -> list[Value]:
        """Add an operation; return its outputs."""
        check_word(word, len(operands), parameters)
        self._entries.append(_Entry(word, tuple(operands), parameters, tuple(output_specs)))
        index = len(self._entries) - 1
        if len(output_specs) == 1:
            return [Value(output_specs[0], "operation", index)]
        return [Value(spec, "operation", index, i) for i, spec in enumerate(output_specs)]

    def build(self, outputs: Sequence[Value]) -> Graph:
        """Return the graph with these outputs, without what they do not depend on."""
        numbers = self._number_used_values(outputs)

        def refer(value: Value) -> ValueRef:
            return ValueRef(numbers[value.kind, value.index], value.output_index)

        operations = [
            self._make_operation(entry, tuple(map(refer, entry.operands)))
            for i, entry in enumerate(self._entries)
            if ("operation", i) in numbers
        ]
        return Graph(
            inputs=tuple(value.spec for value in self.inputs),
            constants=tuple(x for i, x in enumerate(self._constants) if ("constant", i) in numbers),
            operations=tuple(operations),
            outputs=tuple(map(refer, outputs)),
        )

    def _number_used_values(self, outputs: Sequence[Value]) -> dict[tuple[str, int], int]:
        """Return the places of what `outputs` depend on, as `ValueRef` counts them."""
        used = {(value.kind, value.index) for value in outputs}
        for index in reversed(range(len(self._entries))):
            if ("operation", index) in used:
                used |= {(value.kind, value.index) for value in self._entries[index].operands}
        places = [("input", i) for i in range(len(self.inputs))]
        places += sorted(place for place in used if place[0] == "constant")
        places += sorted(place for place in used if place[0] == "operation")
        return {place: number for number, place in enumerate(places)}

    @staticmethod
    def _make_operation(entry: _Entry, operands: tuple[ValueRef, ...]) -> Operation:
        specs = entry.output_specs
        return Operation(
            operator=entry.word,
            args=operands,
            kwargs=entry.parameters,
            output_specs=specs if len(specs) != 1 else specs[0],
            operands=operands,
            rng_index=None,
            decompose=lambda: None,
        )
