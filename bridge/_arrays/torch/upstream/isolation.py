"""Isolation of computations in torch from the transformations and tracing modes of the caller.

NOTE [what would take part]
Within a transformation of `torch.func`, or while a graph is recorded, everything that torch does in
the thread becomes a part of it: results are wrapped, or have no values, even those of tensors that
the caller does not use.

NOTE [tensors that outlive a level]
The pullback of `torch.func.vjp` runs when its level has ended, and a function can hand its
arguments to the outside. Such a tensor is still wrapped, by a level that is dead. Operators of
torch take dead levels off, and so does `Function.apply`; the engine below it would take the
wrapped tensor for a leaf, so that gradients would end there.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import importlib
from collections.abc import Callable, Generator
from typing import Any

import torch

from bridge._arrays.torch.upstream.modes import without_modes

# True within torch.func; required, since what observes a function must know it.
transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active
# The wrappers of torch.func; without the name there are none.
functorch: Any = getattr(torch._C, "_functorch", None)
_unwrap_if_dead: Callable[[Any], Any] = getattr(functorch, "unwrap_if_dead", lambda x: x)
# Without the name, always assume a mode.
number_of_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def in_dispatch_mode() -> bool:
    """Return True if a dispatch mode sees each operator that torch runs, as tracers do."""
    return number_of_modes() > 0


def without_derivatives(x: torch.Tensor) -> torch.Tensor:
    """Return `x` without the wrappers of `grad` and `jvp`; those of `vmap` stay."""
    while functorch and functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    return x


def unwrap(x: torch.Tensor) -> torch.Tensor:
    """Return `x` without the wrappers of any transformation: a batch as one tensor."""
    while functorch and (functorch.is_batchedtensor(x) or functorch.is_gradtrackingtensor(x)):
        x = functorch.get_unwrapped(x)
    return x


def unwrap_dead(xs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Unwrap what has dead levels of transforms: NOTE [tensors that outlive a level].

    Without the name, an older torch has none of these levels, or a newer one unwraps such tensors
    by itself.
    """
    for x in xs:
        if isinstance(x, torch.Tensor) and _unwrap_if_dead(x) is not x:
            return tuple(_alive(x) if isinstance(x, torch.Tensor) else x for x in xs)
    return xs


def _alive(x: torch.Tensor) -> torch.Tensor:
    while (inner := _unwrap_if_dead(x)) is not x:  # which takes off one level
        x = inner
    return x


def suspend_transforms() -> contextlib.AbstractContextManager[Any]:
    """Suspend the caller's transforms and tracing modes: NOTE [what would take part]."""
    return _suspend() if transforming() or number_of_modes() else _NOTHING


@contextlib.contextmanager
def _suspend() -> Generator[None]:
    stack = importlib.import_module("torch._functorch.pyfunctorch")
    with stack.temporarily_clear_interpreter_stack(), without_modes():
        yield


_NOTHING = contextlib.nullcontext()
