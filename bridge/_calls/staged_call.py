"""A call of a bridged function that a graph holds, and the calls derived from it.

NOTE [steps of a recorded call]
A graph holds a call together with the rules that it was derived by. Their positions count the
arrays that the graph passes: those of the call, then the cotangents or tangents of each derivative.
Python numbers among the arguments are in the plan, not in the graph; they are never batched.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.plan import Plan
from bridge._calls.staged_halves import StagedHalves
from bridge._core import pytree
from bridge._core.errors import ArgumentError
from bridge._core.op import AppliedRule, Arrays, Op, OpCache, Specs
from bridge._core.saving_forward import SavingForward
from bridge._core.spec import differentiable_positions

Names = Sequence[Sequence[int | str]]
Shapes = Sequence[Sequence[int | str]] | None

_CACHE = OpCache()


@dataclasses.dataclass(frozen=True)
class StagedCall:
    """A call with arguments of some structure.

    Attributes:
        plan: The plan of such calls.
        primal_values: The primals of its Op: staged arrays of the target, and constants.
        array_positions: Positions of the staged arrays among the primals.
        source_symbolic_shapes: `(flat, primals, names) -> shapes`, `symbolic_shapes` of the source.
    """

    plan: Plan
    primal_values: Sequence[Any]
    array_positions: Sequence[int]
    source_symbolic_shapes: Callable[..., Any]

    def without_arrays(self) -> "StagedCall":
        """Return the call without the arrays that it was made with, which need not stay."""
        gaps = [None] * len(self.array_positions)
        values = pytree.scatter(gaps, self.array_positions, self.primal_values)
        return dataclasses.replace(self, primal_values=values)

    def output_specs(self) -> Specs:
        """Return the specs of the results."""
        return self.plan.op.output_specs()

    @property
    def structure(self) -> Any:
        """The structure of the results."""
        return self.plan.flat.result_structure

    def symbolic_shapes(self, names: Names) -> Shapes:
        """Return shapes of the results for arrays whose shapes contain names, if known."""
        primals, cache = self.plan.primals, _CACHE.of(self.plan.op)
        known_shapes: list[Sequence[int | str]] = [spec.shape for spec in primals]
        shapes = pytree.scatter(names, self.array_positions, known_shapes)
        key = ("shapes", *map(tuple, shapes))
        if key not in cache:  # a compiler asks many times, and each time runs the function
            cache[key] = self.source_symbolic_shapes(self.plan.flat, primals, shapes)
        return cache[key]

    def dependent_outputs(self, steps: Sequence[AppliedRule], argnums: Sequence[int]) -> list[int]:
        """Return positions of the results that depend on an array at `argnums`."""
        op, positions = self._derive(steps)
        outnums = range(len(op.output_specs()))
        return [*op.dependent_outputs(outnums, tuple(positions[i] for i in argnums))]

    def differentiable_outputs(self, steps: Sequence[AppliedRule]) -> list[int]:
        """Return positions of the results with a differentiable dtype."""
        return list(differentiable_positions(self._derive(steps)[0].output_specs()))

    def output_count(self, steps: Sequence[AppliedRule]) -> int:
        """Return the number of results."""
        return len(self._derive(steps)[0].output_specs())

    def halves(
        self, steps: Sequence[AppliedRule], argnums: Sequence[int], outnums: Sequence[int]
    ) -> StagedHalves | None:
        """Return the halves of the derivative, None if a graph cannot hold what is saved."""
        op, positions = self._derive(steps)
        primals, outnums = tuple(positions[i] for i in argnums), tuple(outnums)
        pair = op.try_forward_backward(primals, outnums) if primals and outnums else None
        if pair is None or pair.strategy == "recompute" or not pair.holds_values:
            return None
        saving_forward = SavingForward(pair, primals, outnums)
        execute = self.plan.executor.execute
        return StagedHalves(saving_forward, execute, self.primal_values, positions)

    def execute(self, steps: Sequence[AppliedRule], arrays: Sequence[Any]) -> Arrays:
        """Compute the results for these arrays."""
        op, positions = self._derive(steps)
        derivative_args = [None] * (len(positions) - len(self.array_positions))
        primals = pytree.scatter(arrays, positions, [*self.primal_values, *derivative_args])
        return self.plan.executor.execute(op, primals)

    def _derive(self, steps: Sequence[AppliedRule]) -> tuple[Op, list[int]]:
        """Return the Op and the positions of its arrays: NOTE [steps of a recorded call]."""
        op, positions, count = self.plan.op, list(self.array_positions), len(self.primal_values)
        for kind, *args in steps:
            if kind == "vmap":
                axes, size = args
                primal_axes = pytree.scatter(axes, positions, [None] * count)
                op = op.derive("vmap", tuple(primal_axes), size)
                continue
            argnums = tuple(positions[i] for i in args[0])
            op = op.derive(kind, argnums, *args[1:])
            added_count = len(args[-1])  # cotangents of outputs, or tangents of arrays
            positions += range(count, count + added_count)
            count += added_count
        return op, positions


def make_staged_call(
    plan: Plan, leaves: Sequence[Any], target: str, source_symbolic_shapes: Callable[..., Any]
) -> StagedCall:
    """Make the call of `plan` with these leaves; raise if a graph cannot hold its results."""
    if key_result := plan.flat.describe_key_result():
        raise ArgumentError(
            f"{key_result}, but a graph holds tensors alone. Return its data, and make a key of "
            "that where it is used: jax.random.key_data, jax.random.wrap_key_data."
        )
    owners = [_registry.array_owner(leaves[i]) for i, _ in plan.array_leaves]
    positions = [i for i, owner in enumerate(owners) if owner and owner.name == target]
    return StagedCall(plan, plan.select_arrays(leaves), positions, source_symbolic_shapes)
