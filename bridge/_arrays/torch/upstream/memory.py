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
    return dispatch_keys(x).raw_repr() in PLAIN_KEYS


class _UnknownKeys:
    """Dispatch keys that are those of no ordinary tensor."""

    def raw_repr(self) -> int:
        return -1


dispatch_keys: Callable[[torch.Tensor], Any] = getattr(
    torch._C, "_dispatch_keys", lambda _: _UnknownKeys()
)


def _plain_keys() -> set[int]:
    """Return the dispatch keys of ordinary host tensors, outside and inside inference mode."""
    with torch.device("cpu"):
        keys = {dispatch_keys(torch.empty(0)).raw_repr()}
        with torch.inference_mode():
            keys.add(dispatch_keys(torch.empty(0)).raw_repr())
    return keys - {_UnknownKeys().raw_repr()}


PLAIN_KEYS = _plain_keys()
# The public function without checks of its argument, in half the time.
from_dlpack: Callable[[Any], torch.Tensor] = getattr(torch._C, "_from_dlpack", dlpack.from_dlpack)
