"""The tensors that a call saves for its derivatives, in the context of its Function."""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.call_sites import hooks_saved_tensors, in_forward_mode
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Execute
from bridge._core.pytree import scatter
from bridge._targets.torch.backward_plan import ForwardPlan


def save_for_backward(
    ctx: Any,
    call: tuple[Op, Execute, ForwardPlan],
    xs: Sequence[Any],
    outputs: Arrays,
    residuals: Sequence[torch.Tensor] = (),
) -> None:
    """Save primals and residuals where hooks and version counters of torch see them."""
    ctx.call, plan = call, call[2]
    if plan.scales_gradients:
        ctx.owns_gradients = not hooks_saved_tensors()
    ctx.others = {i: x for i, x in enumerate(xs) if not isinstance(x, torch.Tensor)}
    if ctx.others:
        ctx.save_for_backward(*scatter([None] * len(ctx.others), [*ctx.others], xs), *residuals)
    else:
        ctx.save_for_backward(*xs, *residuals)
    outnums = plan.gradient_free_outnums
    if not plan.argnums or in_forward_mode():  # any primal may get a tangent
        ctx.save_for_forward(*(None if i in ctx.others else x for i, x in enumerate(xs)))
        ctx.gradient_free_outnums = outnums = plan.gradient_free_outnums_for(
            call[0], range(len(xs))
        )
    if outnums:
        ctx.mark_non_differentiable(*(outputs[i] for i in outnums))


def load_saved(ctx: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the primals, and the inputs of the backward Op before the cotangents."""
    saved, others = ctx.saved_tensors, ctx.others  # a checkpoint lets saved_tensors be read once
    count = len(ctx.needs_input_grad) - 2
    xs = saved[:count]
    if others:
        xs = scatter(others.values(), [*others], xs)
    pair = ctx.call[2].pair
    if pair is None:
        return xs, ()
    return xs, (*(xs[i] for i in pair.saved_primals), *saved[count:])
