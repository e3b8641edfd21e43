"""The frameworks that had threads in the parent of this process, which a fork does not copy.

A framework may be forked while it is used without this package, which imports its own code for it
at the first call only. So this is noted for every framework that a function is wrapped for.
"""

import os
from collections.abc import Callable

_checks: dict[str, Callable[[], bool]] = {}
_lost: set[str] = set()


def watch_forks(name: str, has_threads: Callable[[], bool]) -> None:
    """Note in children that are forked off from now on if the framework `name` has threads."""
    if not _checks and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_note_fork)
    _checks.setdefault(name, has_threads)


def _note_fork() -> None:
    _lost.update([name for name, has_threads in _checks.items() if has_threads()])


def lost_threads(name: str) -> bool:
    """Return True if the framework had threads in the parent of this process."""
    return name in _lost
