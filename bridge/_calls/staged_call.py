"""A call of a bridged function that a graph holds, with what is derived from it.

NOTE [steps of a recorded call]
A graph holds a call with the rules that it was derived by. They name positions of the arrays that
the graph passes: those of the caller, then the cotangents or tangents of each derivative. Python
numbers among the arguments are known to the plan alone; all of a batch share them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge._calls.plan import Plan
from bridge._core import pytree
from bridge._core.op import AppliedRule, Arrays, Op, Specs

Names = Sequence[Sequence[int | str]]
Shapes = Sequence[Sequence[int | str]] | None


@dataclasses.dataclass(frozen=True)
class StagedCall:
    """A call with arguments of some structure.

    Attributes:
        plan: What is known of such calls.
        leaves: What its Op takes: arrays, or what stands for them, and numbers.
        array_positions: Positions of the arrays among them.
        source_shapes: `(flat, primals, names) -> shapes`, as the source finds them.
    """

    plan: Plan
    leaves: Sequence[Any]
    array_positions: Sequence[int]
    source_shapes: Callable[..., Any]

    def output_specs(self) -> Specs:
        """What is known of the results."""
        return self.plan.op.output_specs()

    @property
    def structure(self) -> Any:
        """The structure of the results."""
        return self.plan.flat.results

    def symbolic_shapes(self, names: Names) -> Shapes:
        """Shapes of the results where those of the arrays have names in them, if that is known."""
        primals, notes = self.plan.primals, self.plan.op.notes
        known: list[Sequence[int | str]] = [spec.shape for spec in primals]
        mixed = pytree.replace_at(names, self.array_positions, known)
        asked = ("shapes", *map(tuple, mixed))
        if asked not in notes:  # a compiler asks many times, and each runs the function
            notes[asked] = self.source_shapes(self.plan.flat, primals, mixed)
        return notes[asked]

    def dependent_outputs(self, steps: Sequence[AppliedRule], argnums: Sequence[int]) -> list[int]:
        """Positions of the results that depend on one of the arrays at `argnums`."""
        op, at = self._derived(steps)
        free = {at[i] for i in argnums}
        reach = op.dependencies() if op.dependencies else [free for _ in op.output_specs()]
        return [i for i, primals in enumerate(reach) if free & primals]

    def differentiable_outputs(self, steps: Sequence[AppliedRule]) -> list[int]:
        """Positions of the results of a differentiable dtype, which have tangents."""
        specs = self._derived(steps)[0].output_specs()
        return [i for i, spec in enumerate(specs) if spec.differentiable]

    def output_count(self, steps: Sequence[AppliedRule]) -> int:
        """The number of results."""
        return len(self._derived(steps)[0].output_specs())

    def execute(self, steps: Sequence[AppliedRule], arrays: Sequence[Any]) -> Arrays:
        """The results for these arrays."""
        op, at = self._derived(steps)
        added = [None] * (len(at) - len(self.array_positions))
        return self.plan.executor.execute(op, pytree.replace_at(arrays, at, [*self.leaves, *added]))

    def _derived(self, steps: Sequence[AppliedRule]) -> tuple[Op, list[int]]:
        """The Op, and the positions of the arrays: NOTE [steps of a recorded call]."""
        op, at, count = self.plan.op, list(self.array_positions), len(self.leaves)
        for kind, *about in steps:
            if kind == "vmap":
                axes, size = about
                onto = pytree.replace_at(axes, at, [None] * count)
                op = op.derive("vmap", tuple(onto), size)
                continue
            moved = tuple(at[i] for i in about[0])
            op = op.derive(kind, moved, *about[1:])
            added = len(about[-1])  # cotangents of outputs, or tangents of arrays
            at += range(count, count + added)
            count += added
        return op, at
