"""What a call in MLX keeps for its derivative."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._core.op import ForwardBackward, Op, Positions


@dataclasses.dataclass(frozen=True)
class SavingForward:
    """A derivative in two halves, and what it is made for."""

    split: ForwardBackward
    argnums: Positions
    outnums: Positions

    def save(self, at_home: Sequence[Any]) -> "SavedForBackward":
        """What the second half takes of the results of the first, as they are at home."""
        outputs = [at_home[i] for i in self.split.saved_outputs]
        return SavedForBackward(self, [*outputs, *at_home[self.split.output_count :]])


@dataclasses.dataclass(frozen=True)
class SavedForBackward:
    """What one call of the first half has kept."""

    halves: SavingForward
    arrays: Sequence[Any]

    def backward(self, argnums: Positions, outnums: Positions, arity: int) -> "BackwardCall | None":
        """The second half for these gradients and cotangents, if it can give them."""
        if not {*argnums} <= {*self.halves.argnums}:
            return None
        split = self.halves.split
        op = split.backward(argnums) if outnums == self.halves.outnums else None
        if op is None and split.backward_from:
            op = split.backward_from(argnums, outnums)
        return BackwardCall(op, arity, split.saved_primals, self.arrays) if op else None


@dataclasses.dataclass(frozen=True)
class BackwardCall:
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

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        """What it takes, of primals and cotangents."""
        kept_primals = (args[i] for i in self.kept_primals)
        return [*kept_primals, *self.kept, *args[self.arity :]]
