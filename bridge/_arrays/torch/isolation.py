"""Isolation of computations in torch from the transformations and tracing modes of the caller.

NOTE [what would take part]
Within a transformation of `torch.func`, or while a graph is recorded, everything that torch does in
the thread becomes a part of it: results are wrapped, or have no values, even those of tensors that
the caller does not use.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import importlib
from collections.abc import Callable, Generator
from typing import Any

import torch

# In a torch without these private names, always assume a transformation or a mode.
transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def is_recording() -> bool:
    """Return True if a dispatch mode sees each operator that torch runs, as tracers do."""
    return _modes() > 0


def without_derivatives(x: torch.Tensor) -> torch.Tensor:
    """Return `x` without the wrappers of `grad` and `jvp`; those of `vmap` stay."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    while functorch is not None and functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    return x


def unwrap(x: torch.Tensor) -> torch.Tensor:
    """Return `x` without the wrappers of any transformation: a batch as one tensor."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    while functorch and (functorch.is_batchedtensor(x) or functorch.is_gradtrackingtensor(x)):
        x = functorch.get_unwrapped(x)
    return x


def suspend_transforms() -> contextlib.AbstractContextManager[Any]:
    """Suspend the caller's transforms and tracing modes: NOTE [what would take part]."""
    return _suspend() if transforming() or _modes() else _NOTHING


@contextlib.contextmanager
def _suspend() -> Generator[None]:
    functorch = importlib.import_module("torch._functorch.pyfunctorch")
    modes = importlib.import_module("torch.utils._python_dispatch")
    with functorch.temporarily_clear_interpreter_stack(), modes._disable_current_modes():
        yield


_NOTHING = contextlib.nullcontext()
