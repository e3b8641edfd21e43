"""Dry runs: runs of a function that only show what it does, and should leave no trace.

NOTE [functions that change what they capture]
A function that captures a module or an array may change it each time it runs, as a normalization
changes its running statistics. A dry run would then store arrays without values, which nobody could
evaluate afterwards. So the places that the function can name get their contents back. A function
that changes arrays is refused: a module that is itself passed to bridge returns its buffers.
"""

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import is_module
from bridge._core.captured_values import Holder
from bridge._core.errors import ArgumentError
from bridge._sources.mlx.captured_state import state_reader, trial_state
from bridge._sources.mlx.random import preserve_rng


class _Local(threading.local):
    """True while this thread is in a dry run."""

    in_dry_run: bool = False


_local = _Local()


@contextlib.contextmanager
def dry_run() -> Generator[None]:
    """Leave random numbers and captured values unchanged by functions that run in the context."""
    outer, _local.in_dry_run = _local.in_dry_run, True
    try:
        with preserve_rng():
            yield
    finally:
        _local.in_dry_run = outer


def call_or_dry_run(fn: Callable[..., Any], xs: list[mx.array]) -> Any:
    """Call `fn`; in a dry run, undo its changes: NOTE [functions that change what they capture]."""
    if not _local.in_dry_run:
        return fn(*xs)
    state, trial = state_reader(fn, may_evaluate=False)(), trial_state(fn)
    changed: list[tuple[Holder, Any]] = []
    trial.protect_iterators()
    try:
        outputs = fn(*xs)
    finally:
        changed = state.restore()
        trial.restore()
    before = {id(place): values for place, values in state.contents.by_place}
    _check_none_changed(
        [(p, key) for p, key in changed if isinstance(before[id(p)].get(key), mx.array)]
    )
    return outputs


def _check_none_changed(changed_arrays: list[tuple[Holder, Any]]) -> None:
    """Raise if there are arrays that a dry run has changed; each is given by place and key."""
    modules = [place.called for place, _ in changed_arrays if is_module(place.holder)]
    if modules:
        raise ArgumentError(
            f"the function captures a module and changes arrays in it, in {modules[0]}, as it "
            "would again for each derivative. Pass the module itself, whose buffers come back "
            "changed, or call its eval() first."
        )
    if changed_arrays:
        raise ArgumentError(
            f"the function changes an array that it captures, {_name(*changed_arrays[0])}, as it "
            "would again for each derivative. Take it as an argument, and return its new value."
        )


def _name(place: Holder, key: Any) -> str:
    return place.called if key is None else f"{place.called}[{key!r}]" if place.called else str(key)
