"""What a call in MLX keeps for its derivative."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._core.op import Op, Positions, Split


@dataclasses.dataclass(frozen=True)
class Halves:
    """A derivative in two halves, and what it is made for."""

    split: Split
    wanted: Positions
    given: Positions

    def kept(self, at_home: Sequence[Any]) -> "Kept":
        """What the second half takes of the results of the first, as they are at home."""
        outputs = [at_home[i] for i in self.split.kept_outputs]
        return Kept(self, [*outputs, *at_home[self.split.outputs :]])


@dataclasses.dataclass(frozen=True)
class Kept:
    """What one call of the first half has kept."""

    halves: Halves
    arrays: Sequence[Any]

    def second(self, needed: Positions, given: Positions, arity: int) -> "Second | None":
        """The second half for these gradients and cotangents, if it can give them."""
        if not {*needed} <= {*self.halves.wanted}:
            return None
        split = self.halves.split
        op = split.backward(needed) if given == self.halves.given else None
        if op is None and split.narrowed:
            op = split.narrowed(needed, given)
        return Second(op, arity, split.kept_primals, self.arrays) if op else None


@dataclasses.dataclass(frozen=True)
class Second:
    """The second half of a derivative, with what was kept for it.

    Attributes:
        op: What is run.
        arity: How many primals there are.
        kept_primals: Positions of those that it takes.
        kept: What it takes besides, at home.
    """

    op: Op
    arity: int
    kept_primals: Positions
    kept: Sequence[Any]

    def row(self, args: Sequence[Any]) -> list[Any]:
        """What it takes, of primals and cotangents."""
        kept_primals = (args[i] for i in self.kept_primals)
        return [*kept_primals, *self.kept, *args[self.arity :]]
