"""What a call saves for its backward pass, told without making it."""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._core.op import Op, Positions
from bridge._core.saving_forward import SavingChoice
from bridge._targets.torch.backward_plan import read_forward_plan, true_positions


def choose_saving(op: Op, xs: Sequence[Any], argnums: Positions) -> SavingChoice:
    """Return what a call of `op` on `xs` saves, by `argnums` if nothing requires a gradient."""
    wanted = [isinstance(x, torch.Tensor) and x.requires_grad for x in xs]
    is_wanted = any(wanted) and torch.is_grad_enabled()
    if not any(wanted):
        wanted = [isinstance(x, torch.Tensor) and i in argnums for i, x in enumerate(xs)]
    if op.traits.dependencies is None and op.traits.knows_outputs is None:
        return SavingChoice(true_positions(wanted), (), None, is_wanted=is_wanted)
    # For the Op and for what executes it.
    plan = read_forward_plan(op, (False, False, *wanted))
    return SavingChoice(plan.argnums, plan.outnums, plan.pair, is_wanted=is_wanted)
