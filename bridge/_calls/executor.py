"""How Ops are executed for a caller of another framework."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge import _registry
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Fill, HomeFace, Run, RunAndKeep, Runner


@dataclasses.dataclass(frozen=True, slots=True)
class Carrier:
    """How Ops are evaluated for a caller: on arrays, or on buffers that a compiler handed out.

    Attributes:
        evaluate: The outputs for arrays of the caller's framework.
        evaluate_and_keep: Some of them, and all of them as they are at home.
        at_home: The arrays that Ops take.
        moves: Whether they compute on another device than that of the caller's arrays.
    """

    evaluate: Run
    evaluate_and_keep: RunAndKeep
    at_home: HomeFace
    moves: bool = False

    @property
    def fill(self) -> Fill:
        """What writes the outputs for buffers into others."""
        return self.at_home.fill


def carrier(home: str, away: str, *, device: str, computes_on: str) -> Runner:
    """How Ops of `home` are evaluated on arrays of `away` that live on `device`."""
    at_home, abroad = _registry.home(home), _registry.away(away)
    if device == "meta":
        outlined: Run = lambda op, xs: abroad.empty(op.specs())
        return Carrier(outlined, lambda op, xs, count: (outlined(op, xs)[:count], ()), at_home)

    # Made once: what follows runs on every call.
    lend, borrow = abroad.lender(computes_on), at_home.borrower(computes_on)
    release, adopt = at_home.releaser(computes_on), abroad.adopter(device)

    def run(op: Op, xs: Sequence[Any]) -> Arrays:
        return adopt(release(op.call(*borrow(lend(xs)))))

    def run_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        outputs = op.call(*borrow(lend(xs)))
        return adopt(release(outputs[:count])), outputs

    moves = computes_on not in (device, device.removesuffix(":0"))
    working = at_home.working
    if working is None:
        return Carrier(run, run_and_keep, at_home, moves)

    def work(op: Op, xs: Sequence[Any]) -> Arrays:
        with working():
            return run(op, xs)

    def work_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        with working():
            return run_and_keep(op, xs, count)

    return Carrier(work, work_and_keep, at_home, moves)
