"""How Ops are executed for a caller of another framework."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge import _registry
from bridge._core.array_protocols import SourceArrays
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Execute, ExecuteAndSave, ExecuteInto, Executor


@dataclasses.dataclass(frozen=True, slots=True)
class OpExecutor:
    """How Ops are evaluated for a caller: on arrays, or on buffers that a compiler handed out.

    Attributes:
        execute: The outputs for arrays of the caller's framework.
        execute_and_save: Some of them, and all of them as they are at home.
        source_arrays: The arrays that Ops take.
        changes_device: Whether they compute on another device than that of the caller's arrays.
    """

    execute: Execute
    execute_and_save: ExecuteAndSave
    source_arrays: SourceArrays
    changes_device: bool = False

    @property
    def execute_into(self) -> ExecuteInto:
        """What writes the outputs for buffers into others."""
        return self.source_arrays.execute_into


def make_executor(home: str, away: str, *, device: str, compute_device: str) -> Executor:
    """How Ops of `home` are evaluated on arrays of `away` that live on `device`."""
    at_home, abroad = _registry.source_arrays(home), _registry.target_arrays(away)
    if device == "meta":
        outlined: Execute = lambda op, xs: abroad.meta_arrays(op.output_specs())
        return OpExecutor(outlined, lambda op, xs, count: (outlined(op, xs)[:count], ()), at_home)

    # Made once: what follows runs on every call.
    lend, borrow = abroad.lender(compute_device), at_home.borrower(compute_device)
    release, adopt = at_home.releaser(compute_device), abroad.adopter(device)

    def run(op: Op, xs: Sequence[Any]) -> Arrays:
        return adopt(release(op.call(*borrow(lend(xs)))))

    def run_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        outputs = op.call(*borrow(lend(xs)))
        return adopt(release(outputs[:count])), outputs

    moves = compute_device not in (device, device.removesuffix(":0"))
    working = at_home.compute_context
    if working is None:
        return OpExecutor(run, run_and_keep, at_home, moves)

    def work(op: Op, xs: Sequence[Any]) -> Arrays:
        with working():
            return run(op, xs)

    def work_and_keep(op: Op, xs: Sequence[Any], count: int) -> tuple[Arrays, Sequence[Any]]:
        with working():
            return run_and_keep(op, xs, count)

    return OpExecutor(work, work_and_keep, at_home, moves)
