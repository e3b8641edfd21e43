"""What a call saves for its first derivative, told without making it."""

from collections.abc import Sequence
from typing import Any

from bridge._arrays.jax import ARRAYS as ARRAYS
from bridge._core.op import Op, OpCache, Positions
from bridge._core.saving_forward import SavingChoice
from bridge._core.spec import differentiable_positions
from bridge._targets.jax.calls import Call


def choose_saving(op: Op, xs: Sequence[Any], argnums: Positions) -> SavingChoice:
    """Return what a call of `op` on `xs` saves where it is differentiated by those at `argnums`."""
    op = OpCache.copy_for_reading(op)
    argnums = tuple(i for i in argnums if ARRAYS.is_array(xs[i]))
    outnums = op.dependent_outputs(differentiable_positions(op.output_specs()), argnums)
    callee: Any = None  # nothing is executed
    if not argnums or not outnums:
        return SavingChoice(argnums, outnums, None)
    call = Call(op, callee, len(xs)).with_residuals(argnums, outnums)
    if call.saving_forward:
        return SavingChoice(argnums, outnums, call.saving_forward.pair)
    pair = op.rules.forward_backward and op.derive("forward_backward", argnums, outnums)
    reason = "what its forward saves cannot be batched, and a batch may come later" if pair else ""
    return SavingChoice(argnums, outnums, None, reason)
