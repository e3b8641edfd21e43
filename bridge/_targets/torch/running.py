"""What functions capture when they are called under `torch.func`."""

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
    return Running(run, op.read_state())
