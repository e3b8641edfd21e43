"""Small residuals, packed into one buffer per dtype.

A residual costs some microseconds to return, save and pass back, whatever its size. A circuit of 4
qubits has hundreds of a few bytes each: they are packed inside the compiled forward pass, and
unpacked inside the compiled backward pass.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp

from bridge._core.op import Positions, Specs
from bridge._core.spec import ArraySpec

_MOST_ELEMENTS = 1 << 14  # packing copies, which for more costs more than another buffer


@dataclasses.dataclass(frozen=True)
class Packing:
    """Which arrays of a sequence share a buffer.

    Attributes:
        specs: The specs of the arrays.
        alone: Positions of the arrays that are buffers of their own.
        groups: Positions of the arrays that share a buffer, one group per dtype.
    """

    specs: Specs
    alone: Positions
    groups: tuple[Positions, ...]

    def buffers(self) -> Specs:
        """Return the specs of the buffers: arrays on their own, then one buffer per group."""
        shared = [
            ArraySpec(
                (sum(math.prod(self.specs[i].shape) for i in group),), self.specs[group[0]].dtype
            )
            for group in self.groups
        ]
        return (*(self.specs[i] for i in self.alone), *shared)

    def pack(self, arrays: Sequence[Any]) -> list[Any]:
        """Return the buffers that hold `arrays`."""
        shared = [jnp.concatenate([arrays[i].ravel() for i in group]) for group in self.groups]
        return [*(arrays[i] for i in self.alone), *shared]

    def unpack(self, buffers: Sequence[Any]) -> list[Any]:
        """Return the arrays that `buffers` hold, in their order."""
        arrays = dict(zip(self.alone, buffers, strict=False))
        for group, buffer in zip(self.groups, buffers[len(self.alone) :], strict=True):
            sizes = [math.prod(self.specs[i].shape) for i in group]
            parts = jnp.split(buffer, list(itertools.accumulate(sizes))[:-1])
            arrays |= {
                i: part.reshape(self.specs[i].shape) for i, part in zip(group, parts, strict=True)
            }
        return [arrays[i] for i in range(len(self.specs))]


def make_packing(specs: Iterable[Any]) -> Packing:
    """Group the small arrays by dtype, where there are several of one."""
    specs = tuple(specs)
    small: dict[str, list[int]] = {}
    for i, spec in enumerate(specs):
        if math.prod(spec.shape) <= _MOST_ELEMENTS:
            small.setdefault(spec.dtype, []).append(i)
    groups = tuple(tuple(group) for group in small.values() if len(group) > 1)
    shared = {i for group in groups for i in group}
    return Packing(specs, tuple(i for i in range(len(specs)) if i not in shared), groups)
