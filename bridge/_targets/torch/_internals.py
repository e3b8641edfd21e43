"""Private names of torch, each with what happens without it; nothing else here uses any.

NOTE [the vmap of the engine]
`torch.autograd.grad(is_grads_batched=True)`, `torch.autograd.functional` and `gradcheck` batch
with an older vmap that `torch.func` and `Function.vmap` know nothing of. Its tensors have no
storage, and autograd records what happens to the tensors inside them: its levels are taken off
before a Function is applied, and put on again. Without these names such tensors cannot be told
from others, and fail where their memory is read.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._errors import NoValuesError

# Whether torch.func is at work; without the name always the class that it can transform.
transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)

# Entering and leaving the older vmap is the only way to learn its level.
_enter_batch = getattr(torch._C, "_vmapmode_increment_nesting", lambda: 1)
_leave_batch = getattr(torch._C, "_vmapmode_decrement_nesting", lambda: 0)


def batch_level() -> int:
    """How many of the older vmaps are at work: NOTE [the vmap of the engine]."""
    level = _enter_batch()
    _leave_batch()
    return level - 1


def unbatched(x: Any, level: int) -> torch.Tensor | None:
    """`x` with its axis of this level in front, `None` if it has none."""
    if not isinstance(x, torch.Tensor) or "Batched" not in repr(torch._C._dispatch_keys(x)):
        return None
    taken = torch._remove_batch_dim(x, level, 0, 0)  # gives others an axis of the size we name
    return taken if len(taken) else None


def batched(x: torch.Tensor, level: int) -> torch.Tensor:
    """`x` with axis 0 as the axis of this level."""
    return torch._add_batch_dim(x, 0, level)


def recording() -> None:
    """Raise inside of `make_fx` and the like, which would record results as constants."""
    if _mode is not None and _mode(_PROXY) is not None:
        raise NoValuesError(
            "a bridged function cannot be recorded by make_fx or torch.func.linearize: its result "
            "would be a constant of the graph. Call it outside, or use torch.func.jvp."
        )


_mode = getattr(torch._C, "_get_dispatch_mode", None)
_PROXY = _mode and torch._C._TorchDispatchModeKey.PROXY


def forward_mode() -> bool:
    """Whether tensors can carry tangents, which it costs a call each to ask them."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_dual(x: torch.Tensor) -> bool:
    """Whether `x` carries a tangent of forward mode."""
    return forward_ad.unpack_dual(x).tangent is not None
