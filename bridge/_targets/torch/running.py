"""What functions capture when they are called, and when derivatives of calls are computed."""

import contextlib
import dataclasses

from bridge._core.captured_state import CapturedState
from bridge._core.op import Op
from bridge._core.protocols import Execute


@dataclasses.dataclass(frozen=True, eq=False)
class Running:
    """What runs an Op, and what that captures before: NOTE [the state of a call]."""

    execute: Execute
    state: CapturedState | None


def running(op: Op, run: Execute) -> Running:
    """What runs `op`, with what it captures now."""
    return Running(run, read_state(op))


def read_state(op: Op) -> CapturedState | None:
    """What `op` captures now."""
    return op.captured_state() if op.captured_state else None


def restored(state: CapturedState | None) -> contextlib.AbstractContextManager[None]:
    """A context in which that is what it was at a call."""
    return state.restored() if state else _NOTHING


_NOTHING = contextlib.nullcontext()
