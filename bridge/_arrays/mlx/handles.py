"""Things of Python that live for as long as an array of another framework.

NOTE [a number that keeps something alive]
What MLX keeps for a backward pass is a graph, no row of arrays. So what crosses is its number, in
an array whose memory belongs to NumPy: when the last tensor over it is gone, so is the graph. A
copy of the number, as hooks on saved tensors make, keeps nothing alive.
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
os.register_at_fork(after_in_child=_kept.clear)  # whose streams are not in the child


class Handle:
    """An array that keeps `thing` alive: NOTE [a number that keeps something alive]."""

    spec = ArraySpec((1,), "int64")

    def __init__(self, thing: Any) -> None:
        self._memory = np.array([next(_numbers)])
        number = int(self._memory[0])
        _kept[number] = thing
        weakref.finalize(self._memory, _kept.pop, number, None)

    def capsule(self) -> Any:
        """A DLPack capsule of the array."""
        return self._memory.__dlpack__()


def pop(number: mx.array) -> Any:
    """What a handle kept alive, for the first who asks; `None` if it is gone."""
    return _kept.pop(int(host_view(number)[0]), None)
