"""Plans of the forward and backward passes of an Op, by which primals require gradients.

NOTE [outputs nobody uses]
An output without a cotangent must not take part in the backward pass: zeros in place of the
cotangent would be multiplied by values that may be infinite. So a forward/backward pair is made for
the outputs that are used. Which these are is known in the backward pass only: the first time all
are assumed to be, and if that was wrong, the gradients are recomputed from the primals, and the
next forward pass uses the right outputs.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from bridge._core.op import ForwardBackward, Op, OpCache, Positions
from bridge._core.spec import differentiable_positions

# For the Op, for its executor and for each primal: True if it requires a gradient.
Flags = tuple[bool, ...]

_CACHE = OpCache()


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class BackwardPlan:
    """A backward pass for some of the cotangents.

    Attributes:
        argnums: Positions of the primals that get gradients.
        op: The Op that computes them; None if there is no gradient to compute.
        uses_residuals: True if the Op is called on residuals, otherwise on the primals.
    """

    argnums: Positions
    op: Op | None
    uses_residuals: bool


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class ForwardPlan:
    """A forward pass for some of the primals requiring gradients.

    Attributes:
        op: The Op that is called.
        needs_input_grad: The flags that it was made for.
        argnums: Positions of the primals that require gradients.
        outnums: Positions of the outputs that are expected to have cotangents.
        pair: The forward/backward pair; None if the backward pass recomputes.
        forward: The Op that computes the outputs.
        differentiable_outnums: Positions of the outputs with a differentiable dtype.
        gradient_free_outnums: Positions of the outputs that no gradient can flow through.
        all_outnums: Positions of all outputs.
        backward_plans: The backward passes.
    """

    op: Op
    needs_input_grad: Flags
    argnums: Positions
    outnums: Positions
    pair: ForwardBackward | None
    forward: Op
    differentiable_outnums: Positions
    gradient_free_outnums: Positions
    all_outnums: Positions
    backward_plans: "BackwardPlans" = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backward_plans", BackwardPlans(self))

    @property
    def scales_gradients(self) -> bool:
        """True if the forward saves gradients, at `argnums`, which the backward multiplies."""
        return self.pair is not None and self.pair.strategy == "gradient"

    def gradient_free_outnums_for(self, argnums: Iterable[int]) -> Positions:
        """Return positions of the outputs without a derivative by any of `argnums`."""
        differentiable = self.differentiable_outnums
        return _gradient_free_outnums(self.op, differentiable, self.all_outnums, tuple(argnums))


class ForwardPlans(dict[Flags, ForwardPlan]):
    """The forward passes of an Op, made where they are first looked up.

    Attributes:
        op: The Op.
        is_traced: True if its outputs are known before a call, and it captures nothing.
    """

    __slots__ = ("is_traced", "op")

    def __init__(self, op: Op) -> None:
        super().__init__()
        self.op, traits = op, op.traits
        has_state = traits.captured_state is not None or traits.knows_outputs is not None
        self.is_traced = traits.dependencies is not None and not has_state

    def __missing__(self, needs_input_grad: Flags) -> ForwardPlan:
        plan = self[needs_input_grad] = _make_forward_plan(self.op, needs_input_grad, None)
        return plan


class BackwardPlans(dict[tuple[Flags, Positions], BackwardPlan]):
    """The backward passes of a forward pass, for cotangents of some outputs, made likewise."""

    __slots__ = ("_forward_plan",)

    def __init__(self, forward_plan: ForwardPlan) -> None:
        super().__init__()
        self._forward_plan = forward_plan

    def __missing__(self, key: tuple[Flags, Positions]) -> BackwardPlan:
        forward, (needs_input_grad, outnums) = self._forward_plan, key
        plan = self[key] = _make_backward_plan(forward, needs_input_grad, outnums)
        # Also where recomputing cost least for all outputs: for one number it does not.
        if outnums != forward.outnums and forward.op.rules.forward_backward:
            flags = forward.needs_input_grad  # NOTE [outputs nobody uses]
            forward_plans(forward.op)[flags] = _make_forward_plan(forward.op, flags, outnums)
        return plan


def forward_plans(op: Op) -> ForwardPlans:
    """Return the forward passes of `op`, which live as long as it."""
    cache = _CACHE.of(op)
    if "plans" not in cache:
        cache.setdefault("plans", ForwardPlans(op))
    return cache["plans"]


def read_forward_plan(op: Op, needs_input_grad: Flags) -> ForwardPlan:
    """Return the forward pass of `op`; where it is made for that, nothing is stored."""
    plan = forward_plans(op).get(needs_input_grad)
    if plan is not None:
        return plan
    return _make_forward_plan(OpCache.copy_for_reading(op), needs_input_grad, None)


def _make_backward_plan(
    forward_plan: ForwardPlan, needs_input_grad: Flags, outnums: Positions
) -> BackwardPlan:
    op = forward_plan.op
    argnums = op.dependent_primals(outnums, true_positions(needs_input_grad[2:]))
    if not argnums or not outnums:
        return BackwardPlan(argnums, None, uses_residuals=False)
    if forward_plan.pair and outnums == forward_plan.outnums:
        return BackwardPlan(argnums, forward_plan.pair.backward(argnums), uses_residuals=True)
    return BackwardPlan(argnums, op.derive("vjp", argnums, outnums), uses_residuals=False)


def _make_forward_plan(op: Op, needs_input_grad: Flags, outnums: Positions | None) -> ForwardPlan:
    argnums = true_positions(needs_input_grad[2:])
    specs = op.output_specs()
    differentiable, all_outnums = differentiable_positions(specs), tuple(range(len(specs)))
    gradient_free_outnums = _gradient_free_outnums(op, differentiable, all_outnums, argnums)
    if outnums is None:
        outnums = tuple(i for i in all_outnums if i not in gradient_free_outnums)
    pair = op.try_forward_backward(argnums, outnums) if argnums and outnums else None
    if pair and pair.strategy == "recompute":  # the context of a Function saves what that needs
        pair = None
    forward = pair.forward if pair else op
    return ForwardPlan(
        op,
        needs_input_grad,
        argnums,
        outnums,
        pair,
        forward,
        differentiable,
        gradient_free_outnums,
        all_outnums,
    )


def plan_from_outputs(
    op: Op, outputs: Sequence[torch.Tensor], needs_input_grad: Flags
) -> ForwardPlan:
    """Make the forward pass of an Op whose outputs are not known before it is called."""
    floating = [y.is_floating_point() or y.is_complex() for y in outputs]
    differentiable, others = true_positions(floating), true_positions(not flag for flag in floating)
    argnums, all_outnums = true_positions(needs_input_grad[2:]), tuple(range(len(outputs)))
    return ForwardPlan(
        op, needs_input_grad, argnums, differentiable, None, op, differentiable, others, all_outnums
    )


def _gradient_free_outnums(
    op: Op, differentiable: Positions, outnums: Positions, argnums: Positions
) -> Positions:
    """Return those of `outnums` that have no derivative by any primal at `argnums`."""
    dependent = op.dependent_outputs(differentiable, argnums)
    return tuple(i for i in outnums if i not in dependent)


def true_positions(flags: Iterable[bool]) -> Positions:
    """Return the positions of the flags that are set."""
    return tuple([i for i, flag in enumerate(flags) if flag])
