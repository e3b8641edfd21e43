"""Small residuals in one buffer for each dtype.

A residual costs some microseconds to hand out, keep and take back, whatever its size. A circuit of
4 qubits has hundreds of a few bytes: they are joined inside the compiled forward pass, and parted
inside the compiled backward pass.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from bridge._core.op import Positions, Specs
from bridge._core.spec import ArraySpec

# Joining copies, which soon costs more than a buffer of one's own.
_SMALL = 1 << 14


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which of a row of arrays are joined.

    Attributes:
        specs: Of the arrays.
        alone: Positions of those that are not joined.
        together: Positions of those that are, by dtype.
    """

    specs: Specs
    alone: Positions
    together: tuple[Positions, ...]

    def buffers(self) -> Specs:
        """What is handed out."""
        joined = [
            ArraySpec((sum(math.prod(self.specs[i].shape) for i in at),), self.specs[at[0]].dtype)
            for at in self.together
        ]
        return (*(self.specs[i] for i in self.alone), *joined)

    def pack(self, arrays: Sequence[Any]) -> list[Any]:
        """The arrays that are alone, then the joined ones."""
        joined = [jnp.concatenate([arrays[i].ravel() for i in at]) for at in self.together]
        return [*(arrays[i] for i in self.alone), *joined]

    def unpack(self, row: Sequence[Any]) -> list[Any]:
        """All arrays again, in order."""
        found = dict(zip(self.alone, row, strict=False))
        for at, buffer in zip(self.together, row[len(self.alone) :], strict=True):
            sizes = [math.prod(self.specs[i].shape) for i in at]
            parts = jnp.split(buffer, list(itertools.accumulate(sizes))[:-1])
            found |= {
                i: part.reshape(self.specs[i].shape) for i, part in zip(at, parts, strict=True)
            }
        return [found[i] for i in range(len(self.specs))]


def make_packing(specs: Iterable[Any]) -> Packing:
    """Small arrays joined, wherever there are several of a dtype."""
    specs = tuple(specs)
    small: dict[str, list[int]] = {}
    for i, spec in enumerate(specs):
        if math.prod(spec.shape) <= _SMALL:
            small.setdefault(spec.dtype, []).append(i)
    together = tuple(tuple(at) for at in small.values() if len(at) > 1)
    joined = {i for at in together for i in at}
    return Packing(specs, tuple(i for i in range(len(specs)) if i not in joined), together)
