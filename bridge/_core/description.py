"""What a source tells a reader about an Op: its program, and why it does what it does."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Description:
    """Facts about an Op for a reader; nothing is computed by them.

    Attributes:
        language: What its program is written in, such as `jaxpr`.
        program: `() -> str`, the operations in order; `""` if there is no program.
        remarks: Sentences on when it is traced or run again.
        residual_reason: `(argnums, outnums) -> str`, why its first derivative saves what it saves.
        copies: Why it copies a primal itself, by position, whatever memory it gets.
        written_outputs: `() -> positions`, the outputs that its `call_into` computes in place.
    """

    language: str
    program: Callable[[], str] = lambda: ""
    remarks: Sequence[str] = ()
    residual_reason: Callable[[tuple[int, ...], tuple[int, ...]], str] = lambda *_: ""
    copies: Mapping[int, str] = dataclasses.field(default_factory=dict[int, str])
    written_outputs: Callable[[], Sequence[int]] = lambda: ()
