"""Verdicts kept in a file, and the table of what is refused that the documentation prints."""

import collections
import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.suites.judging import REFUSED, RIGHT, Verdict
from tests.suites.truth import MODES

# The file to which verdicts are added, one a line; without it they are not kept.
VARIABLE = "GRADBRIDGE_SUITES"
_HEADING = """# Operators of torch, tried one by one

Written by `nox -s suites`: a sample of every operator in torch's own records, in float64,
complex128 and float32, or in integers where it takes no others, compared with torch itself.
"""


def record(way: str, verdicts: Sequence[Verdict]) -> None:
    """Add `verdicts` to the file, if there is one."""
    path = os.environ.get(VARIABLE)
    if path:
        lines = [json.dumps([way, *dataclasses.astuple(verdict)]) + "\n" for verdict in verdicts]
        with Path(path).open("a") as file:
            file.write("".join(lines))


def kept(path: Path) -> dict[str, list[Verdict]]:
    """The verdicts in a file, by the ways that they are about."""
    by_way = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        way, *fields = json.loads(line)
        by_way[way].append(Verdict(*fields))
    return by_way


def table(by_way: dict[str, list[Verdict]]) -> str:
    """Markdown that counts what is right, and names what is refused."""
    return "\n".join([_HEADING, *(line for way in by_way for line in _section(way, by_way[way]))])


def _section(way: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield f"## `{way}`\n"
    counts = collections.Counter((verdict.mode, verdict.outcome) for verdict in verdicts)
    outcomes = [RIGHT, *sorted({verdict.outcome for verdict in verdicts} - {RIGHT})]
    yield f"| | {' | '.join(outcomes)} |\n|---|{'---|' * len(outcomes)}"
    for mode in MODES:
        yield f"| {mode} | {' | '.join(str(counts[mode, outcome]) for outcome in outcomes)} |"
    yield "\n| operator | refused | because |\n|---|---|---|"
    yield from sorted(_lines(verdict for verdict in verdicts if verdict.outcome == REFUSED))
    yield ""


def _lines(refused: Iterable[Verdict]) -> Iterator[str]:
    """One for each operator and reason."""
    groups = collections.defaultdict(list)
    for verdict in refused:
        groups[verdict.operator, _sentence(verdict.reason)].append(verdict)
    for (operator, reason), verdicts in groups.items():
        modes = [mode for mode in MODES if mode in {verdict.mode for verdict in verdicts}]
        dtypes = list(dict.fromkeys(verdict.dtype for verdict in verdicts))
        what = "all" if len(modes) == len(MODES) else ", ".join(modes)
        yield f"| `{operator}` | {what} ({', '.join(dtypes)}) | {reason} |"


def _sentence(reason: str) -> str:
    """The first sentence of an error's text, without its classes, as a cell of a table."""
    text = " ".join(re.sub(r"^(?:[\w.]+: )+", "", reason).split())
    return text.partition(". ")[0].rstrip(".").replace("|", r"\|")


if __name__ == "__main__":
    source, destination = map(Path, sys.argv[1:])
    destination.parent.mkdir(exist_ok=True)
    destination.write_text(table(kept(source)))
