"""Handles: arrays of another framework that keep a Python object alive.

NOTE [a number that keeps something alive]
MLX saves a graph for a backward pass, not a list of arrays. So the other framework saves the number
of the graph instead, in an array whose memory belongs to NumPy: when the last tensor over that
memory is freed, so is the graph. A copy of the number, as hooks on saved tensors make, keeps
nothing alive.
"""

import itertools
import os
import weakref
from typing import Any

import mlx.core as mx
import numpy as np

from bridge._arrays.mlx.memory import host_view
from bridge._core.spec import ArraySpec

_numbers = itertools.count()
_kept: dict[int, Any] = {}
os.register_at_fork(after_in_child=_kept.clear)  # a graph needs its stream, which a child lacks


class Handle:
    """An array that keeps a Python object alive: NOTE [a number that keeps something alive]."""

    spec = ArraySpec((1,), "int64")

    def __init__(self, value: Any) -> None:
        self._memory = np.array([next(_numbers)])
        number = int(self._memory[0])
        _kept[number] = value
        weakref.finalize(self._memory, _kept.pop, number, None)

    def capsule(self) -> Any:
        """Return a DLPack capsule of the array."""
        return self._memory.__dlpack__()


def pop(number: mx.array) -> Any:
    """Return and forget the object of a handle; `None` if it is gone already."""
    return _kept.pop(int(host_view(number)[0]), None)
