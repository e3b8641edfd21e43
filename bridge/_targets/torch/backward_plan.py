"""What the forward pass of an Op does and keeps, given which primals want gradients.

NOTE [outputs nobody uses]
An output without cotangent must not take part in the backward pass: zeros in its place would be
multiplied by what may be infinite. So a split is made for the outputs that are used. Which these
are shows only in the backward pass: the first time all are assumed to be, and if that was wrong,
the gradients are recomputed from the primals, and the next forward pass knows better.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from bridge._core.op import ForwardBackward, Op, Positions

Flags = tuple[bool, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class BackwardPlan:
    """A backward pass.

    Attributes:
        argnums: Positions of the primals that get gradients.
        op: What is evaluated, `None` where there is nothing to be had.
        split: Whether on residuals; otherwise on the primals.
    """

    argnums: Positions
    op: Op | None
    split: bool


@dataclasses.dataclass(frozen=True, eq=False)
class ForwardPlan:
    """A forward pass.

    Attributes:
        flags: For each input, the Op and what runs it in front, whether it wants a gradient.
        argnums: Positions of those that do.
        outnums: Positions of the outputs that are expected to have cotangents.
        split: Both halves of the derivative; `None` where the backward pass recomputes.
        forward: What is evaluated.
        differentiable_outputs: Positions of the outputs of a differentiable dtype.
        non_differentiable: Positions of the outputs that no gradient can reach.
        outputs: Positions of all outputs.
        backward_plans: The backward passes so far.
    """

    flags: Flags
    argnums: Positions
    outnums: Positions
    split: ForwardBackward | None
    forward: Op
    differentiable_outputs: Positions
    non_differentiable: Positions
    outputs: Positions
    backward_plans: dict[tuple[Flags, Positions], BackwardPlan] = dataclasses.field(
        default_factory=dict
    )

    def independent_primals(self, op: Op, primals: Iterable[int]) -> Positions:
        """The outputs of `op` that none of `primals` reaches by a derivative."""
        return _non_differentiable(op, self.differentiable_outputs, self.outputs, tuple(primals))


def forward_plan(op: Op, flags: Flags) -> ForwardPlan:
    """The forward pass of `op`, made once and then kept."""
    found = op.notes.get(flags)
    return found if found is not None else _make_forward_plan(op, flags, None)


def backward_plan(op: Op, made: ForwardPlan, flags: Flags, outnums: Positions) -> BackwardPlan:
    """The backward pass to the primals of these flags from the outputs `outnums`, kept likewise."""
    found = made.backward_plans.get((flags, outnums))
    if found is None:
        found = made.backward_plans[flags, outnums] = _make_backward_plan(op, made, flags, outnums)
    if made.split and outnums != made.outnums:
        _make_forward_plan(op, made.flags, outnums)  # NOTE [outputs nobody uses]
    return found


def _make_backward_plan(
    op: Op, made: ForwardPlan, flags: Flags, outnums: Positions
) -> BackwardPlan:
    needed = op.dependent_primals(outnums, true_positions(flags[2:]))
    if not needed or not outnums:
        return BackwardPlan(needed, None, split=False)
    if made.split and outnums == made.outnums:
        return BackwardPlan(needed, made.split.backward(needed), split=True)
    return BackwardPlan(needed, op.derive("vjp", needed, outnums), split=False)


def _make_forward_plan(op: Op, flags: Flags, outnums: Positions | None) -> ForwardPlan:
    wanted = true_positions(flags[2:])
    smooth = tuple(i for i, spec in enumerate(op.output_specs()) if spec.differentiable)
    outputs = tuple(range(len(op.output_specs())))
    fixed = _non_differentiable(op, smooth, outputs, wanted)
    outnums = tuple(i for i in outputs if i not in fixed) if outnums is None else outnums
    split = op.try_forward_backward(wanted, outnums) if wanted and outnums else None
    if split and split.strategy == "recompute":  # a context of torch holds what it needs for that
        split = None
    forward = split.forward if split else op
    made = ForwardPlan(flags, wanted, outnums, split, forward, smooth, fixed, outputs)
    op.notes[flags] = made
    return made


def plan_from_outputs(op: Op, outputs: Sequence[torch.Tensor], flags: Flags) -> ForwardPlan:
    """The forward pass of an Op that tells nothing of its outputs before it is called."""
    smooth = tuple(i for i, y in enumerate(outputs) if y.is_floating_point() or y.is_complex())
    everything = tuple(range(len(outputs)))
    fixed = tuple(i for i in everything if i not in smooth)
    return ForwardPlan(
        flags, true_positions(flags[2:]), smooth, None, op, smooth, fixed, everything
    )


def _non_differentiable(
    op: Op, smooth: Positions, outputs: Positions, primals: Positions
) -> Positions:
    """Those of `outputs` that are not smooth, or depend on none of `primals`."""
    return tuple(i for i in outputs if i not in smooth or not op.dependent_primals([i], primals))


def true_positions(flags: Iterable[bool]) -> Positions:
    """Where the flags are set."""
    return tuple([i for i, flag in enumerate(flags) if flag])
