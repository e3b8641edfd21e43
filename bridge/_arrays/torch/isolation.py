"""What a caller of torch is at, transforming or recording, which takes no part at home.

NOTE [what would take part]
Within a transformation of `torch.func`, or where a graph is recorded, whatever torch does in the
thread is a part of it: results are wrapped, or have no values, also of tensors that the caller has
nothing to do with.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import importlib
from collections.abc import Callable, Generator
from typing import Any

import torch

# Without the names, something may always be going on.
transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)
_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def is_recording() -> bool:
    """Whether something looks at each operator that torch runs, as what makes graphs does."""
    return _modes() > 0


def without_derivatives(x: torch.Tensor) -> torch.Tensor:
    """`x` without the levels of transformations that take derivatives; batches keep theirs."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    while functorch is not None and functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    return x


def unwrap(x: torch.Tensor) -> torch.Tensor:
    """`x` without the levels of any transformation: all of a batch at once."""
    functorch: Any = getattr(torch._C, "_functorch", None)
    while functorch and (functorch.is_batchedtensor(x) or functorch.is_gradtrackingtensor(x)):
        x = functorch.get_unwrapped(x)
    return x


def suspend_transforms() -> contextlib.AbstractContextManager[Any]:
    """Nothing that the caller is at takes part in here: NOTE [what would take part]."""
    return _suspend() if transforming() or _modes() else _NOTHING


@contextlib.contextmanager
def _suspend() -> Generator[None]:
    functorch = importlib.import_module("torch._functorch.pyfunctorch")
    modes = importlib.import_module("torch.utils._python_dispatch")
    with functorch.temporarily_clear_interpreter_stack(), modes._disable_current_modes():
        yield


_NOTHING = contextlib.nullcontext()
