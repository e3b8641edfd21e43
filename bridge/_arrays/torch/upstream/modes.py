"""Private names of torch about modes and dispatch."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.utils._python_dispatch as dispatch

TorchDispatchMode = dispatch.TorchDispatchMode


# `torch.no_grad` calls this; without the name it goes unnoticed.
set_grad_enabled: Any = getattr(torch._C, "_set_grad_enabled", None)
# Keeps operators within out of a graph that is being captured; without the name they are in it.
without_modes: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    dispatch, "_disable_current_modes", contextlib.nullcontext
)


# Hides accesses to tensors within from observers; without the name they are observed.
without_functions: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    torch._C, "DisableTorchFunction", contextlib.nullcontext
)


# Lets operators skip autograd; without the name autograd is called, but records nothing.
below_autograd: Callable[[], Any] = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)
any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off, so that operators compute in the dtypes of their arguments."""
    stack = contextlib.ExitStack()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
