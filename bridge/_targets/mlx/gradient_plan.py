"""Plans of calls and gradients, made once for all calls of an Op."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS, dtype_of
from bridge._core.op import Op, OpCache, Positions, Specs
from bridge._core.pytree import scatter
from bridge._core.saving_forward import SavingForward
from bridge._core.spec import differentiable_positions

_CACHE = OpCache()


@dataclasses.dataclass(frozen=True, eq=False)
class GradientPlan:
    """How to compute gradients of a call.

    Attributes:
        argnums: Positions of the primals that get gradients.
        outnums: Positions of the outputs that have cotangents.
        op: The Op on primals and cotangents; `None` if all gradients are zero.
    """

    argnums: Positions
    outnums: Positions
    op: Op | None


@dataclasses.dataclass(eq=False, kw_only=True)
class CallPlan:
    """What all calls of an Op with arrays at the same positions share.

    Attributes:
        op: The Op that is called.
        array_positions: Positions of the arrays among its arguments.
        arity: The number of arguments, constants included.
        trailing_linear_count: How many of the last arguments it is linear in: the cotangents or
            tangents if it is a derivative, else none.
        argnums: Positions of the arrays that can have gradients.
        tracked_argnums: Positions of those whose gradients are computed only if they are used.
        output_specs: The specs of its outputs.
        output_shapes_and_dtypes: Shapes and dtypes of its outputs.
        outnums: Positions of the outputs that can have gradients.
        constant_outnums: Positions of those that depend on none of the arrays at `argnums`.
        requested: The `argnums` and `outnums` of gradients that no saved residuals could give.
        forwards: The forward/backward pairs so far.
        gradient_plans: The gradients so far.
    """

    op: Op
    array_positions: Positions
    arity: int
    trailing_linear_count: int
    argnums: Positions
    tracked_argnums: Positions
    output_specs: Specs
    output_shapes_and_dtypes: list[tuple[Any, mx.Dtype]]
    outnums: Positions
    constant_outnums: Positions
    requested: tuple[Positions, Positions] | None = None
    forwards: dict[tuple[Positions, Positions], SavingForward | None] = dataclasses.field(
        default_factory=dict
    )
    gradient_plans: dict[tuple[Positions, Positions], GradientPlan] = dataclasses.field(
        default_factory=dict
    )

    @property
    def tracks_usage(self) -> bool:
        """True if a call must find out which of its gradients and outputs are used."""
        return bool(self.tracked_argnums) or len(self.output_specs) > 1

    def arguments(self, arrays: Sequence[Any], args_without_arrays: Sequence[Any]) -> Sequence[Any]:
        """Return all arguments; `args_without_arrays` has `None` at the positions of arrays."""
        if len(self.array_positions) == self.arity:
            return arrays
        return scatter(arrays, self.array_positions, args_without_arrays)

    def gradient_plan(self, argnums: Positions, outnums: Positions) -> GradientPlan:
        """Return the plan of these gradients for cotangents of these outputs, from a cache."""
        plan = self.gradient_plans.get((argnums, outnums))
        if plan is None:
            plan = self._make_gradient_plan(argnums, outnums)
            self.gradient_plans[argnums, outnums] = plan
        return plan

    def _make_gradient_plan(self, argnums: Positions, outnums: Positions) -> GradientPlan:
        dependent = self.op.dependent_primals(outnums, argnums)
        op = self.op.derive("vjp", dependent, outnums) if outnums and dependent else None
        return GradientPlan(dependent, outnums, op)

    def saving_forward(self) -> SavingForward | None:
        """Return the forward for the gradients that calls have needed; at first, for all."""
        key = self.requested or (self.argnums, self.outnums)
        if key not in self.forwards:
            has_gradients = all(key) and not self.trailing_linear_count
            pair = self.op.try_forward_backward(*key) if has_gradients else None
            self.forwards[key] = SavingForward(pair, *key) if pair else None
        return self.forwards[key]

    def remember(self, plan: GradientPlan) -> None:
        """Make the forwards of later calls save residuals for these gradients too."""
        before = self.requested[0] if self.requested else ()
        self.requested = tuple(sorted({*before, *plan.argnums})), plan.outnums


def get_call_plan(
    op: Op, xs: Sequence[Any], array_positions: Positions, trailing_linear_count: int
) -> CallPlan:
    """Return the plan of a call of `op` on `xs`, from a cache."""
    plan = _CACHE.of(op).get(array_positions)
    return plan or _make_call_plan(op, xs, array_positions, trailing_linear_count)


def _make_call_plan(
    op: Op, xs: Sequence[Any], array_positions: Positions, trailing_linear_count: int
) -> CallPlan:
    # A function that looks at values may have to run to observe its specs.
    specs = op.traits.observed_specs() if op.traits.observed_specs else op.output_specs()
    argnums = tuple(i for i in array_positions if ARRAYS.spec(xs[i]).differentiable)
    primals = tuple(i for i in argnums if i < len(xs) - trailing_linear_count)
    outnums = differentiable_positions(specs)
    plan = _CACHE.of(op)[array_positions] = CallPlan(
        op=op,
        array_positions=array_positions,
        arity=len(xs),
        trailing_linear_count=trailing_linear_count,
        argnums=argnums,
        # The rule is only called if a gradient is used: if there is one primal, its own.
        tracked_argnums=primals if len(primals) > 1 else (),
        output_specs=specs,
        output_shapes_and_dtypes=[(spec.shape, dtype_of(spec.dtype)) for spec in specs],
        outnums=outnums,
        constant_outnums=tuple(i for i in outnums if not op.dependent_primals([i], argnums)),
    )
    return plan
