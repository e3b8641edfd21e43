"""Verdicts kept in a file, and the table of what is refused that the documentation prints."""

import collections
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.suites.judging import RIGHT, Verdict
from tests.suites.truth import MODES

# The file to which verdicts are added, one a line; without it they are not kept.
VARIABLE = "GRADBRIDGE_SUITES"


def record(way: str, verdicts: Sequence[Verdict]) -> None:
    """Add `verdicts` to the file, if there is one."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a") as file:
            for verdict in verdicts:
                file.write(json.dumps({"way": way, **dataclasses.asdict(verdict)}) + "\n")
