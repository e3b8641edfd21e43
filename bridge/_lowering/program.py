"""Graphs in the core vocabulary as functions of a target.

NOTE [rules are asked once]
A rule of a word is asked once for each operation of a program, with all that is known of it, and
returns what computes it. What follows from constants alone is computed once for each device.

NOTE [results of their own]
No result shares memory with an argument or another result. Some words return a view; a result that
is one, an argument, a constant, or the result of a loop or a branch is copied.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph, Operation, ValueRef
from bridge._core.spec import ArraySpec
from bridge._lowering.operations import Operations
from bridge._lowering.rules import find_rule
from bridge._lowering.rules.instruction import Instruction

_MAY_SHARE = frozenset(
    [
        "reshape",
        "transpose",
        "broadcast_in_dim",
        "split",
        "slice",
        "rev",
        "real",
        "imag",
        "conj",
        "convert_element_type",
        "copy",
        "bitcast_convert_type",
        "reduce_precision",
        "abs",
        "floor",
        "ceil",
        "round",
        "clamp",
        "select_n",
        "pad",
        "concatenate",
        "dynamic_slice",
        "dynamic_update_slice",
        "scan",
        "while",
        "cond",
        "reduce_sum",
        "reduce_prod",
        "reduce_max",
        "reduce_min",
        "reduce_and",
        "reduce_or",
        "reduce_xor",
        "narrow_integers",
        "empty",
        "fft",
        "integer_pow",
    ]
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """One operation.

    Attributes:
        compute: What computes it.
        sources: The places of its operands, or numbers in brackets.
        destinations: The places of its results.
        expired: The places that nobody reads later.
    """

    compute: Callable[..., Any]
    sources: tuple[Any, ...]
    destinations: tuple[int, ...]
    expired: tuple[int, ...] = ()


class Program:
    """A graph as a function of arrays of a target."""

    def __init__(self, graph: Graph, operations: Operations, name: str) -> None:
        self.graph, self._operations, self._name = graph, operations, name
        self._input_count = len(graph.inputs)
        self._places = _Places(graph)
        constant_places = self._places.constant_places()
        steps = [self._make_step(operation, i) for i, operation in enumerate(graph.operations)]
        is_constant = [self._is_constant(step, constant_places) for step in steps]
        self._constant_steps = [step for step, flag in zip(steps, is_constant, strict=True) if flag]
        live = [step for step, flag in zip(steps, is_constant, strict=True) if not flag]
        self._outputs = [self._places.of(ref) for ref in graph.outputs if ref is not None]
        refs = [ref for ref in graph.outputs if ref is not None]
        self.output_dtypes = [self._places.spec(ref).dtype for ref in refs]
        self._copied = self._find_copied()
        self._steps = _with_expiry(live, {*self._outputs, *constant_places})
        self._all_steps = _with_expiry(steps, set(self._outputs))
        self._constants: dict[str, list[Any]] = {}

    def __call__(self, xs: Sequence[Any], *, device: str) -> list[Any]:
        """Compute the outputs on a device, with constants that were computed before."""
        constants = self._constants.get(device)
        if constants is None:
            constants = self._constants[device] = self._compute_constants(device)
        values = constants.copy()
        values[: self._input_count] = xs
        return self._finish(values, self._steps, None)

    def run(self, xs: Sequence[Any], like: Any) -> list[Any]:
        """Compute the outputs on the device of `like`, or record how that is done."""
        if self._operations.is_recording():
            return self.record(xs, like)
        return self(xs, device=self._operations.device(like))

    def record(self, xs: Sequence[Any], like: Any) -> list[Any]:
        """Compute the outputs with constants of this call's own, as in a graph being recorded."""
        values: list[Any] = [None] * self._places.count
        values[: self._input_count] = xs
        for i, constant in enumerate(self.graph.constants):
            values[self._input_count + i] = self._operations.embed(constant, like)
        return self._finish(values, self._all_steps, like)

    def _finish(self, values: list[Any], steps: Sequence[_Step], like: Any) -> list[Any]:
        _run(values, steps, like)
        copy = self._operations.copy
        pairs = zip(self._outputs, self._copied, strict=True)
        return [copy(values[place]) if copied else values[place] for place, copied in pairs]

    def _compute_constants(self, device: str) -> list[Any]:
        like = self._operations.anchor(device)
        values: list[Any] = [None] * self._places.count
        for i, constant in enumerate(self.graph.constants):
            values[self._input_count + i] = self._operations.embed(constant, like)
        _run(values, self._constant_steps, like)
        read = {source for step in self._steps for source in step.sources} | {*self._outputs}
        return [value if place in read else None for place, value in enumerate(values)]

    def _is_constant(self, step: _Step, constant_places: set[int]) -> bool:
        places = {source for source in step.sources if not isinstance(source, tuple)}
        if not places <= constant_places:
            return False
        constant_places.update(step.destinations)
        return True

    def _make_step(self, operation: Operation, number: int) -> _Step:
        specs = tuple(self._places.spec(ref) for ref in operation.operands)
        outputs = operation.output_specs
        constants = tuple(map(self._places.constant, operation.operands))
        instruction = Instruction(
            operation.operator,
            specs,
            outputs if isinstance(outputs, tuple) else (outputs,),
            operation.kwargs,
            constants,
            self._name,
        )
        self._check_dtypes(instruction)
        compute = find_rule(instruction, self._operations)
        sources: list[Any] = [self._places.of(ref) for ref in operation.operands]
        if len(sources) == 2 and constants[0] is None and constants[1] is not None:
            number_or_none = self._operations.scalar(
                constants[1], operation.operator, specs[0].dtype
            )
            if number_or_none is not None:
                sources[1] = (number_or_none,)
        return _Step(compute, tuple(sources), self._places.results(number, instruction.outputs))

    def _check_dtypes(self, instruction: Instruction) -> None:
        for spec in (*instruction.inputs, *instruction.outputs):
            if not self._operations.supports_dtype(spec.dtype):
                raise NoRuleError(
                    f"`{instruction.word}` of {self._name} has {spec}, and code of the caller's "
                    f"framework cannot compute with {spec.dtype}. Convert it in the function to "
                    "another dtype, or leave out lower=, so that the source computes."
                )

    def _find_copied(self) -> list[bool]:
        """Return which outputs are copied: NOTE [results of their own]."""
        copied: list[bool] = []
        for i, ref in enumerate(self.graph.outputs):
            if ref is None:
                continue
            number = ref.value_index - self._input_count - len(self.graph.constants)
            shares = number < 0 or self.graph.operations[number].operator in _MAY_SHARE
            copied.append(shares or self._outputs[i] in self._outputs[:i])
        return copied


class _Places:
    """Where the values of a graph stand in a list: inputs, constants, results."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._first = len(graph.inputs) + len(graph.constants)
        self._starts: list[int] = []
        self.count = self._first
        for operation in graph.operations:
            self._starts.append(self.count)
            specs = operation.output_specs
            self.count += len(specs) if isinstance(specs, tuple) else 1

    def constant_places(self) -> set[int]:
        return set(range(len(self._graph.inputs), self._first))

    def of(self, ref: ValueRef) -> int:
        number = ref.value_index - self._first
        return ref.value_index if number < 0 else self._starts[number] + (ref.output_index or 0)

    def results(self, number: int, specs: Sequence[ArraySpec]) -> tuple[int, ...]:
        start = self._starts[number]
        return tuple(range(start, start + len(specs)))

    def constant(self, ref: ValueRef) -> Any:
        number = ref.value_index - len(self._graph.inputs)
        return self._graph.constants[number] if 0 <= number < len(self._graph.constants) else None

    def spec(self, ref: ValueRef) -> ArraySpec:
        constant = self.constant(ref)
        if constant is not None:
            return ArraySpec(tuple(constant.shape), constant.dtype.name)
        number = ref.value_index - self._first
        if number < 0:
            return self._graph.inputs[ref.value_index]
        specs = self._graph.operations[number].output_specs
        return specs if ref.output_index is None else specs[ref.output_index]


def _with_expiry(steps: Sequence[_Step], kept: set[int]) -> list[_Step]:
    """Return the steps with the places that each is the last to read."""
    later, reversed_steps = set(kept), list[_Step]()
    for step in reversed(steps):
        places = {source for source in step.sources if not isinstance(source, tuple)}
        places.update(step.destinations)
        reversed_steps.append(dataclasses.replace(step, expired=tuple(places - later)))
        later |= places
    return reversed_steps[::-1]


def _run(values: list[Any], steps: Sequence[_Step], like: Any) -> None:
    """Compute the results of steps, in the list of values."""
    for step in steps:
        arguments = [
            source[0] if isinstance(source, tuple) else values[source] for source in step.sources
        ]
        results = step.compute(*arguments) if arguments else step.compute(like)  # a constant
        if len(step.destinations) == 1:
            values[step.destinations[0]] = results[0] if isinstance(results, list) else results
        else:
            for place, result in zip(step.destinations, results, strict=True):
                values[place] = result
        for place in step.expired:
            values[place] = None
