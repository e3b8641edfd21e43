"""How arguments and results of a call cross, seen by the addresses of their memory.

NOTE [a stand-in for the function]
A call is made with another Op in the place of the function's: it computes nothing, notes where its
arguments are, and returns zeros. All that lends, borrows, copies and adopts arrays is that of real
calls. So what is said of memory is what was seen, on arrays of these layouts.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge import _registry
from bridge._calls.explanation import Crossing, Way
from bridge._calls.plan import LeafInfo, Plan
from bridge._core.array_protocols import SourceArrays, TargetArrays
from bridge._core.description import Description
from bridge._core.op import Arrays, Op, Specs, Traits
from bridge._core.protocols import Target
from bridge._core.spec import ArraySpec

_MAY_CHANGE = "it may change before a derivative is computed"


@dataclasses.dataclass(frozen=True, eq=False)
class StandIn:
    """An Op in the place of another, which notes addresses: NOTE [a stand-in for the function].

    Attributes:
        op: The other Op.
        outputs: The specs of its outputs.
        description: What is known of it.
        arrays: The arrays of its framework.
        inside: The addresses of its arguments, once it was called.
        outside: The addresses of its results.
    """

    op: Op
    outputs: Specs
    description: Description
    arrays: SourceArrays
    inside: list[int | None] = dataclasses.field(default_factory=list[int | None])
    outside: list[int | None] = dataclasses.field(default_factory=list[int | None])

    def make_op(self) -> Op:
        """Make the Op."""
        into = self._call_into if self.op.traits.call_into else None
        return Op(
            name=self.op.name,
            framework=self.op.framework,
            call=self._call,
            output_specs=lambda *_: self.outputs,
            traits=Traits(call_into=into),
        )

    def _call(self, *xs: Any) -> Arrays:
        self.inside[:] = [self._address(x) for x in xs]
        outputs = tuple(map(self.arrays.example, self.outputs))
        self.outside[:] = map(self.arrays.address, outputs)
        return outputs

    def _call_into(self, buffers: Sequence[Any], xs: Sequence[Any]) -> Arrays:
        outputs = list(self._call(*xs))
        for i in self.description.written_outputs():
            buffers[i][...] = 0  # else integers that are narrowed could be out of range
            outputs[i] = buffers[i]
            self.outside[i] = self.arrays.address(buffers[i])
        return tuple(outputs)

    def _address(self, x: Any) -> int | None:
        return self.arrays.address(x) if hasattr(x, "shape") else None


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """One call of a plan, whose crossings are to be told.

    Attributes:
        plan: The plan.
        leaves: The leaves of its arguments.
        infos: What is known of them.
        frameworks: The names of its source and of its target.
        target: The target.
    """

    plan: Plan
    leaves: Sequence[Any]
    infos: Sequence[LeafInfo]
    frameworks: tuple[str, str]
    target: Target

    @property
    def _source_arrays(self) -> SourceArrays:
        return _registry.source_arrays(self.frameworks[0])

    @property
    def _target_arrays(self) -> TargetArrays:
        return _registry.target_arrays(self.frameworks[1])

    def describe(
        self, description: Description, outputs: Specs | None, result_names: Sequence[str]
    ) -> tuple[tuple[Crossing, ...], tuple[Crossing, ...]]:
        """Return the crossings of arguments and results; `outputs` is None if not known yet."""
        if self.plan.op.traits.graph:
            return self._arguments(lambda *_: ("compiled", "")), tuple(
                Crossing(name, spec, "compiled")
                for name, spec in zip(result_names, outputs or (), strict=True)
            )
        if self.plan.device == "meta":
            unknown = lambda *_: ("not known", "a meta tensor has no values")
            return self._arguments(unknown), ()
        stand_in = StandIn(self.plan.op, outputs or (), description, self._source_arrays)
        xs = self.plan.select_arrays(self.leaves)
        native = self.target.make_native(stand_in.make_op(), self.plan.executor, None)
        results = native(*xs)
        arguments = self._arguments(lambda i, x, info: self._way(i, x, info, stand_in))
        return arguments, self._results(stand_in, results, result_names)

    def _arguments(self, way_of: Any) -> tuple[Crossing, ...]:
        positions = {leaf: i for i, (leaf, _) in enumerate(self.plan.array_leaves)}
        crossings: list[Crossing] = []
        for i, (leaf, info) in enumerate(zip(self.leaves, self.infos, strict=True)):
            if info.spec is None:
                value = getattr(leaf, "value", leaf)
                crossings.append(Crossing(info.name, None, "static", _short(repr(value))))
            else:
                way, reason = way_of(positions[i], leaf, info)
                crossings.append(Crossing(info.name, info.spec, way, reason))
        return tuple(crossings)

    def _way(self, i: int, leaf: Any, info: LeafInfo, stand_in: StandIn) -> tuple[Way, str]:
        """Return how the leaf that is primal `i` crosses, and why."""
        owner = _registry.array_owner(leaf)
        if owner is None:
            return "number", ""
        if info.spec and 0 in info.spec.shape:
            return "shared", "it has no elements"
        if i in stand_in.description.copies:
            return "copied", stand_in.description.copies[i]
        if owner.address(leaf) == stand_in.inside[i]:
            return "shared", ""
        if self.plan.array_leaves[i][1] is not None:
            return "copied", _MAY_CHANGE
        lent = self._target_arrays.lender(self.plan.device)([leaf])[0]
        reason = self._target_arrays.lending_copy_reason(leaf)
        return "copied", reason or self._source_arrays.borrowing_copy_reason(lent)

    def _results(
        self, stand_in: StandIn, results: Sequence[Any], names: Sequence[str]
    ) -> tuple[Crossing, ...]:
        crossings: list[Crossing] = []
        for name, spec, y, address in zip(
            names, stand_in.outputs, results, stand_in.outside, strict=True
        ):
            if 0 in spec.shape or self._target_arrays.address(y) == address:
                crossings.append(Crossing(name, spec, "shared"))
            else:
                reason = self._narrowed(spec, y) or self._target_arrays.adopting_copy_reason
                crossings.append(Crossing(name, spec, "copied", reason))
        return tuple(crossings)

    def _narrowed(self, spec: ArraySpec, y: Any) -> str:
        dtype = self._target_arrays.target_spec(y).dtype
        return "" if dtype == spec.dtype else f"{spec.dtype} becomes {dtype}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
