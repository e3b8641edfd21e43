"""Explanations of calls as text."""

from collections.abc import Iterator, Sequence

from bridge._calls.explanation import (
    Crossing,
    Explanation,
    Saving,
    Traces,
    copied_bytes,
    format_bytes,
)

_MOST_ROWS = 16  # of arguments or results
_MOST_LINES = 24  # of a program
_MOST_NAMES = 8  # in a line


def as_text(explanation: Explanation) -> str:
    """Return an explanation as text, with those of the calls in it, indented."""
    return "\n".join(_lines(explanation))


def _lines(x: Explanation) -> Iterator[str]:
    yield f"{x.direction} {x.name} ({x.options}) on {x.device}"
    yield from _table("arguments", x.arguments)
    yield from _table("results", x.results)
    yield from _saving(x.saving)
    yield f"  traces      {_traces(x.traces)}"
    yield from (f"  note        {remark}" for remark in x.remarks)
    yield from _program(x)
    for call in x.calls:
        yield "  calls"
        yield from (f"    {line}" for line in _lines(call))


def _table(title: str, crossings: Sequence[Crossing]) -> Iterator[str]:
    copied = copied_bytes(crossings)
    yield f"  {title}{f': {format_bytes(copied)} copied' if copied else ''}"
    shown = crossings[:_MOST_ROWS]
    if not shown:
        yield "    none, or not known before a call"
    cells = [(x.name, *describe(x)) for x in shown]
    widths = [max((len(row[i]) for row in cells), default=0) for i in range(3)]
    for row in cells:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield f"    {padded}  {row[3]}".rstrip()
    rest = crossings[_MOST_ROWS:]
    if rest:
        ways = dict.fromkeys(x.way for x in rest)
        counts = ", ".join(f"{sum(x.way == way for x in rest)} {way}" for way in ways)
        yield f"    ... and {len(rest)} more: {counts}"


def describe(x: Crossing) -> tuple[str, str, str]:
    """Return spec, size and way of an argument or a result as text."""
    way = f"{x.way}: {x.reason}" if x.reason else x.way
    if x.spec is None:
        return "", "", way
    device = "" if x.spec.device == "cpu" else f" {x.spec.device}"
    return f"{x.spec}{device}", format_bytes(x.nbytes), way


def _saving(x: Saving) -> Iterator[str]:
    if not x.by:
        yield "  derivative  none: no argument can have a gradient"
        return
    yield f"  derivative  {x.strategy}, by {_some(x.by)}" + (f": {x.reason}" if x.reason else "")
    count = f"{len(x.arrays)} array{'' if len(x.arrays) == 1 else 's'}"
    kept = [f"{count}, {format_bytes(x.nbytes)} ({_some(x.arrays)})"] if x.arrays else []
    as_they_are = [*x.arguments, *x.results]
    kept += [f"{_some(as_they_are)} without a copy"] if as_they_are else []
    condition = "" if x.is_wanted else ", if an argument required a gradient"
    yield f"  kept        {' and '.join(kept) or 'nothing'}{condition}"


def _some(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:_MOST_NAMES])) + (", ..." if len(items) > _MOST_NAMES else "")


def _traces(x: Traces) -> str:
    so_far = "no trace" if not x.count else f"{x.count} trace{'s' if x.count > 1 else ''}"
    if x.is_known:
        return f"{so_far} so far; this call uses one"
    return f"{so_far} so far; {x.reason}"


def _program(x: Explanation) -> Iterator[str]:
    if not x.program:
        yield f"  program     none ({x.language})"
        return
    lines = x.program.splitlines()
    yield f"  program     {x.language}, {len(lines)} line{'s' if len(lines) > 1 else ''}"
    shown = lines if len(lines) <= _MOST_LINES else lines[: _MOST_LINES - 1]
    yield from (f"    {line}" for line in shown)
    if len(shown) < len(lines):
        yield f"    ... and {len(lines) - len(shown)} more: `.program` is the whole"
