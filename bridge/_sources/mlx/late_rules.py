"""Modules that hold the arrays of a call until its derivative has been computed.

NOTE [rules that run late]
The rule of a custom function, as that of `mx.checkpoint`, which runs a part of a module again, runs
after the call that it is of, and reads the module as it is then. So while MLX computes a
derivative, the arrays and modes of the call stay in the module.
"""

import functools
import threading
from collections.abc import Callable

import mlx.core as mx

from bridge._sources.mlx.random import Fun

Undo = Callable[[], None]


class _Local(threading.local):
    """What gives each module its own arrays back; None while no derivative is computed."""

    pending: dict[int, Undo] | None = None


_local = _Local()


def with_late_rules(derivative: Fun) -> Fun:
    """Return `derivative` so that modules hold the arrays of calls in it until it has returned."""

    @functools.wraps(derivative)
    def run(*xs: mx.array) -> list[mx.array]:
        if _local.pending is not None:
            return derivative(*xs)
        _local.pending = pending = {}
        try:
            return derivative(*xs)
        finally:
            _local.pending = None
            for undo in pending.values():
                undo()

    return run


def undo_later(key: int, undo: Undo) -> bool:
    """Call `undo` when the derivative has been computed; return False if there is none."""
    if _local.pending is None:
        return False
    _local.pending[key] = undo
    return True


def undo_now(key: int) -> None:
    """Call what `undo_later` was given for `key`, if anything."""
    if _local.pending:
        _local.pending.pop(key, lambda: None)()
