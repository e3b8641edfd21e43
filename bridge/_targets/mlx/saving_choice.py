"""What a call saves for its gradient, told without making it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._core.op import Op, OpCache, Positions
from bridge._core.saving_forward import SavingChoice
from bridge._targets.mlx.gradient_plan import get_call_plan


def choose_saving(op: Op, xs: Sequence[Any], _: Positions) -> SavingChoice:
    """Return what a call of `op` on `xs` saves within `mx.grad`, by all that has gradients."""
    positions = tuple([i for i, x in enumerate(xs) if isinstance(x, mx.array)])
    op = OpCache.copy_for_reading(op)
    plan = get_call_plan(op, xs, positions, 0)
    saving = dataclasses.replace(plan, op=op, forwards=dict(plan.forwards)).saving_forward()
    if saving is None:
        return SavingChoice(plan.argnums, plan.outnums, None)
    return SavingChoice(saving.argnums, saving.outnums, saving.pair)
