"""Multiples of gradients that were computed along with a number.

NOTE [gradients that nobody else has]
The forward pass may save the gradients for the cotangent 1. To multiply them into fresh memory
takes as long as to write them all again, in a training step for the cotangent 1 of `backward()`.
They are handed out as they are, or multiplied in place, where nobody else can read them: the
backward pass frees the graph, so that there is no second one, and no hook saw them when they were
saved, which could have stored them.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch import in_dispatch_mode
from bridge._arrays.torch.upstream.call_sites import backward_frees_graph
from bridge._arrays.torch.upstream.memory import has_plain_memory
from bridge._targets.torch.backward_plan import BackwardPlan


def try_scale_saved(
    ctx: Any, plan: BackwardPlan, saved: Sequence[torch.Tensor], cotangent: torch.Tensor
) -> Sequence[torch.Tensor] | None:
    """Return gradients in the memory of `saved`, those for the cotangent 1.

    None if none were saved, or others may read them: NOTE [gradients that nobody else has].
    """
    forward_plan = ctx.call[0]
    if not (forward_plan.scales_gradients and ctx.owns_gradients):
        return None
    if in_dispatch_mode():  # a graph that is being recorded would hold the value of now
        return None
    # On another device, to look at the cotangent would wait for it.
    if not backward_frees_graph() or not has_plain_memory(cotangent):
        return None
    gradients = [saved[forward_plan.argnums.index(i)] for i in plan.argnums]
    if cotangent.item() == 1:
        return gradients
    parts = [torch.view_as_real(x) if x.is_complex() else x for x in gradients]
    if any(x.dtype != cotangent.dtype for x in parts):  # torch would round the cotangent first
        return None
    factor = cotangent.reshape(())
    for x in parts:
        x.mul_(factor)
    return gradients
