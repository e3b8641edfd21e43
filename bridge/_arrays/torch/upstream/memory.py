"""Private names of torch about memory that crosses by DLPack."""
# pyright: reportPrivateUsage=false

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import dlpack


def has_plain_memory(x: torch.Tensor) -> bool:
    """Return True if the memory of `x` on the host holds its values, as DLPack assumes.

    It does not for lazy conjugations, negations and zeros, for subclasses and on other devices.
    All of these have dispatch keys of their own. Without the name, no tensor counts as plain.
    """
    return _dispatch_keys is not None and _dispatch_keys(x).raw_repr() in _PLAIN_KEYS


_dispatch_keys: Callable[[torch.Tensor], Any] | None = getattr(torch._C, "_dispatch_keys", None)


def _plain_keys() -> set[int]:
    """Return the dispatch keys of ordinary host tensors, outside and inside inference mode."""
    if _dispatch_keys is None:
        return set()
    with torch.device("cpu"):
        keys = {_dispatch_keys(torch.empty(0)).raw_repr()}
        with torch.inference_mode():
            return keys | {_dispatch_keys(torch.empty(0)).raw_repr()}


_PLAIN_KEYS = _plain_keys()
# The public function without checks of its argument, in half the time.
from_dlpack: Callable[[Any], torch.Tensor] = getattr(torch._C, "_from_dlpack", dlpack.from_dlpack)
