"""What functions of tests note down of their runs, also in runs that leave no trace."""

import sys
from collections.abc import Callable
from typing import Any

RECORDS: dict[int, list] = {}


def recorder() -> tuple[list, Callable[[Any], None]]:
    """A list, and a function that appends to it for good, wherever it is called."""
    key = len(RECORDS)
    RECORDS[key] = []

    def record(x):
        # Not by its name, which would be looked into, and put back after a dry run.
        vars(sys.modules[__name__])["RECORDS"][key].append(x)

    return RECORDS[key], record
