"""What a call in MLX keeps for its derivative."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from bridge._errors import NoRuleError
from bridge._op import Op, Positions, Specs, Split


def specs(op: Op) -> Specs:
    """The outputs of an Op, which may have to run for that."""
    if "outputs" not in op.notes:
        op.notes["outputs"] = op.specs()
    return op.notes["outputs"]


def smooth(op: Op) -> Positions:
    """Its outputs of a differentiable dtype."""
    return tuple(i for i, spec in enumerate(specs(op)) if spec.differentiable)


def reached(op: Op, outputs: Iterable[int], primals: Positions) -> Positions:
    """Those of `primals` that one of `outputs` depends on."""
    if op.reach is None:
        return primals
    reach = op.reach()
    together = frozenset[int]().union(*(reach[y] for y in outputs))
    return tuple(i for i in primals if i in together)


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


def halves(op: Op, free: Positions) -> Halves | None:
    """The derivative in two halves, for what it was asked for so far: at first, everything."""
    wanted, given = op.notes.get("asked") or (free, smooth(op))
    if op.split is None or not wanted or not given:
        return None
    try:
        split = op.derive("split", wanted, given)
    except NoRuleError:  # of no matter where no gradient is asked for
        return None
    return Halves(split, wanted, given) if split else None


def remember(op: Op, needed: Positions, given: Positions) -> None:
    """Note what the derivative was asked for, and not made for."""
    before = op.notes["asked"][0] if "asked" in op.notes else ()
    op.notes["asked"] = (tuple(sorted({*before, *needed})), given)


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
