"""What calls of one Op have in common, found out once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS, dtype_of
from bridge._core.op import Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._targets.mlx.residuals import SavingForward


@dataclasses.dataclass(frozen=True, eq=False)
class GradientPlan:
    """A gradient.

    Attributes:
        argnums: Positions of the primals that get it.
        outnums: Positions of the outputs that have cotangents.
        op: What is evaluated on primals and cotangents, `None` where there is nothing to be had.
    """

    argnums: Positions
    outnums: Positions
    op: Op | None


@dataclasses.dataclass(eq=False, kw_only=True)
class CallPlan:
    """Calls of an Op with arrays in the same places.

    Attributes:
        op: What is called.
        at: Positions of the arrays among its arguments.
        arity: How many arguments there are, with constants.
        linear: In how many of the last ones it is linear: in none, unless it is a derivative.
        free: Positions of the arrays that may have gradients.
        marked: Positions of those that it is to be found out for whether they are wanted.
        specs: Its outputs.
        results: Their shapes and dtypes.
        smooth: Positions of those that have gradients.
        unrecorded: Positions of those among them that depend on no argument that may have one.
        asked: Primals and cotangents that gradients were asked of, where halves gave none.
        splits: The derivatives in two halves so far.
        gradient_plans: The gradients so far.
    """

    op: Op
    at: Positions
    arity: int
    linear: int
    free: Positions
    marked: Positions
    specs: Specs
    results: list[tuple[Any, mx.Dtype]]
    smooth: Positions
    unrecorded: Positions
    asked: tuple[Positions, Positions] | None = None
    splits: dict[tuple[Positions, Positions], SavingForward | None] = dataclasses.field(
        default_factory=dict
    )
    gradient_plans: dict[tuple[Positions, Positions], GradientPlan] = dataclasses.field(
        default_factory=dict
    )

    @property
    def tracks_usage(self) -> bool:
        """Whether anything about the use of a call has to be found out."""
        return bool(self.marked) or len(self.specs) > 1

    def arguments(self, arrays: Sequence[Any], rest: Sequence[Any]) -> Sequence[Any]:
        """All arguments, of which `rest` are the constants."""
        return arrays if len(self.at) == self.arity else replace_at(arrays, self.at, rest)

    def gradient_plan(self, argnums: Positions, outnums: Positions) -> GradientPlan:
        """The gradient of these primals for the cotangents of these outputs."""
        found = self.gradient_plans.get((argnums, outnums))
        if found is None:
            found = self.gradient_plans[argnums, outnums] = self._make_gradient_plan(
                argnums, outnums
            )
        return found

    def _make_gradient_plan(self, argnums: Positions, outnums: Positions) -> GradientPlan:
        needed = self.op.dependent_primals(outnums, argnums)
        found = self.op.derive("vjp", needed, outnums) if outnums and needed else None
        return GradientPlan(needed, outnums, found)

    def saving_forward(self) -> SavingForward | None:
        """The derivative in two halves, for what was asked for so far: at first, everything."""
        key = self.asked or (self.free, self.smooth)
        if key not in self.splits:
            asked = all(key) and not self.linear
            split = self.op.try_forward_backward(*key) if asked else None
            self.splits[key] = SavingForward(split, *key) if split else None
        return self.splits[key]

    def remember(self, way: GradientPlan) -> None:
        """Let the next halves give a gradient too that these could not."""
        before = self.asked[0] if self.asked else ()
        self.asked = tuple(sorted({*before, *way.argnums})), way.outnums


def call_plan(op: Op, xs: Sequence[Any], at: Positions, linear: int) -> CallPlan:
    """That of a call on `xs` with arrays `at` these positions."""
    return op.notes.get(("calls", at)) or _make_call_plan(op, xs, at, linear)


def _make_call_plan(op: Op, xs: Sequence[Any], at: Positions, linear: int) -> CallPlan:
    specs = (
        op.observed_specs() if op.observed_specs else op.output_specs()
    )  # which may have to run for that
    free = tuple(i for i in at if ARRAYS.spec(xs[i]).differentiable)
    primals = tuple(i for i in free if i < len(xs) - linear)
    smooth = tuple(i for i, spec in enumerate(specs) if spec.differentiable)
    found = op.notes["calls", at] = CallPlan(
        op=op,
        at=at,
        arity=len(xs),
        linear=linear,
        free=free,
        marked=primals if len(primals) > 1 else (),
        specs=specs,
        results=[(spec.shape, dtype_of(spec.dtype)) for spec in specs],
        smooth=smooth,
        unrecorded=tuple(i for i in smooth if not op.dependent_primals([i], free)),
    )
    return found
