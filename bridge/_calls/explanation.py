"""What `BridgedFunction.explain` returns: a call as data, to be read as text or as a figure."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from bridge._core.spec import ArraySpec

Way = Literal["shared", "copied", "number", "static", "compiled", "not known"]


@dataclasses.dataclass(frozen=True)
class Crossing:
    """An argument or a result, and how it crosses.

    Attributes:
        name: As the user would write it: `x['weights'][0]`.
        spec: Its shape, dtype and device; None for a static value, or if it is not known.
        way: `shared` if both sides have the same memory, by its address; `copied`; `number` for a
            Python number; `static` for what is part of the trace; `compiled` if the program of the
            caller computes with it, so that nothing crosses.
        reason: Why it is copied, or what a static value is.
    """

    name: str
    spec: ArraySpec | None
    way: Way
    reason: str = ""

    @property
    def nbytes(self) -> int:
        """The bytes of its values."""
        return spec_bytes(self.spec) if self.spec else 0


@dataclasses.dataclass(frozen=True)
class Saving:
    """What a call keeps for its first derivative.

    Attributes:
        strategy: `save`, `gradient`, `outputs`, or `recompute` for nothing but arguments.
        reason: Why this one.
        by: The arguments that the derivative is by.
        is_wanted: False if no argument requires a gradient, so that nothing is kept now.
        arguments: The arguments that are kept as they are, without memory of their own.
        results: The results that are.
        arrays: The specs of all other arrays that are kept.
    """

    strategy: str
    reason: str
    by: tuple[str, ...]
    is_wanted: bool
    arguments: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    arrays: tuple[ArraySpec, ...] = ()

    @property
    def nbytes(self) -> int:
        """The bytes of the arrays that are kept, without arguments and results."""
        return sum(map(spec_bytes, self.arrays))


@dataclasses.dataclass(frozen=True)
class Traces:
    """What was traced, and whether a call traces again.

    Attributes:
        count: The traces so far.
        is_known: True if a call like this one was traced before.
        reason: Why it is not; what differs from the trace that is most like it.
    """

    count: int
    is_known: bool
    reason: str


@dataclasses.dataclass(frozen=True, repr=False)
class Explanation:
    """What a call of a bridged function is; `str` and `repr` give it as text.

    Attributes:
        name: The name of the function.
        direction: Such as `jax2torch`.
        options: The options that it was wrapped with.
        device: Where the function computes.
        arguments: The leaves of the arguments.
        results: The leaves of the results.
        saving: What is kept for the first derivative.
        traces: What was traced.
        language: What the program is written in.
        program: The whole program as text; `""` if there is none.
        remarks: What else there is to know.
        calls: The bridged functions that the function calls, each once for the same kinds of
            arguments.
    """

    name: str
    direction: str
    options: str
    device: str
    arguments: tuple[Crossing, ...]
    results: tuple[Crossing, ...]
    saving: Saving
    traces: Traces
    language: str
    program: str
    remarks: tuple[str, ...]
    calls: "tuple[Explanation, ...]" = ()

    def __str__(self) -> str:
        from bridge._calls.explanation_text import as_text  # which needs these classes

        return as_text(self)

    __repr__ = __str__

    def dot(self) -> str:
        """Return a figure as text of Graphviz, `dot -Tsvg`."""
        from bridge._calls.explanation_figure import as_dot

        return as_dot(self)

    def svg(self) -> str:
        """Return a figure as SVG, drawn without Graphviz."""
        from bridge._calls.explanation_figure import as_svg

        return as_svg(self)


def spec_bytes(spec: ArraySpec) -> int:
    """Return the bytes of an array of this spec."""
    return math.prod(spec.shape) * spec.item_size


def format_bytes(count: int) -> str:
    """Return a number of bytes as a reader would say it, in powers of 1,000."""
    if count == 1:
        return "1 byte"
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def copied_bytes(crossings: Sequence[Crossing]) -> int:
    """Return the bytes that are copied."""
    return sum(x.nbytes for x in crossings if x.way == "copied")
