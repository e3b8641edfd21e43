"""The tensors that a call saves for its derivatives, in the context of its Function."""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.call_sites import hooks_saved_tensors, in_forward_mode
from bridge._core.op import Arrays
from bridge._core.pytree import scatter
from bridge._targets.torch.backward_plan import ForwardPlan


def save_for_backward(
    ctx: Any,
    plan: ForwardPlan,
    xs: Sequence[Any],
    outputs: Arrays,
    residuals: Sequence[torch.Tensor] = (),
) -> dict[int, Any]:
    """Save primals and residuals where hooks and version counters of torch see them.

    Return the primals that are no tensors, by their positions.
    """
    if plan.pair is not None and plan.scales_gradients:
        ctx.owns_gradients = not hooks_saved_tensors()
    others: dict[int, Any] = {}
    for i, x in enumerate(xs):
        if not isinstance(x, torch.Tensor):
            others[i] = x
    if others:
        ctx.save_for_backward(*scatter([None] * len(others), [*others], xs), *residuals)
    else:
        ctx.save_for_backward(*xs, *residuals)
    outnums = plan.gradient_free_outnums
    if not plan.argnums or in_forward_mode():  # any primal may get a tangent
        ctx.save_for_forward(*(None if i in others else x for i, x in enumerate(xs)))
        outnums = plan.gradient_free_outnums_for(range(len(xs)))
        ctx.gradient_free_outnums = outnums
    if outnums:
        ctx.mark_non_differentiable(*(outputs[i] for i in outnums))
    return others


def load_saved(
    ctx: Any, plan: ForwardPlan, others: dict[int, Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the primals, and the inputs of the backward Op before the cotangents."""
    saved = ctx.saved_tensors  # a checkpoint lets it be read once
    pair = plan.pair
    count = len(ctx.needs_input_grad) - 2
    xs = saved[:count]
    if others:
        xs = scatter(others.values(), [*others], xs)
    if pair is None:
        return xs, xs
    return xs, (*(xs[i] for i in pair.saved_primals), *saved[count:])
