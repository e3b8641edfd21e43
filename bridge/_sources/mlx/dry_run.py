"""Runs of a function that only find out what it does, and should leave no trace.

NOTE [functions that change what they capture]
A function that captures a module or an array may change it, as the running statistics of a
normalization, each time it runs: also when it is looked at with arrays that have no values, which
nobody could evaluate afterwards. The places that it can name get back what they held. That it
changes arrays is refused: a module that is itself passed to bridge returns its buffers.
"""

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._core.captured_values import Holder
from bridge._core.errors import ArgumentError
from bridge._sources.mlx.captured_state import is_module, state_reader, trial_state
from bridge._sources.mlx.random import preserve_rng


class _Local(threading.local):
    """Whether functions run only to be looked at in this thread."""

    looking: bool = False


_local = _Local()


@contextlib.contextmanager
def dry_run() -> Generator[None]:
    """Functions that run in here change neither random numbers nor modules."""
    outer, _local.looking = _local.looking, True
    try:
        with preserve_rng():
            yield
    finally:
        _local.looking = outer


def call_checked(fn: Callable[..., Any], xs: list[mx.array]) -> Any:
    """The results of `fn`: NOTE [functions that change what they capture]."""
    if not _local.looking:
        return fn(*xs)
    state, trial = state_reader(fn, evaluates=False)(), trial_state(fn)
    changed: list[tuple[Holder, Any]] = []
    trial.protect_iterators()
    try:
        found = fn(*xs)
    finally:
        changed = state.put_back()
        trial.put_back()
    before = {id(place): values for place, values in state.contents.by_place}
    _check_unchanged(
        [(p, key) for p, key in changed if isinstance(before[id(p)].get(key), mx.array)]
    )
    return found


def _check_unchanged(arrays: list[tuple[Holder, Any]]) -> None:
    modules = [place.called for place, _ in arrays if is_module(place.holder)]
    if modules:
        raise ArgumentError(
            f"the function captures a module and changes arrays in it, in {modules[0]}, as it "
            "would again for each derivative. Pass the module itself, whose apply() returns its "
            "buffers, or call its eval() first."
        )
    if arrays:
        raise ArgumentError(
            f"the function changes an array that it captures, {_name(*arrays[0])}, as it would "
            "again for each derivative. Take it as an argument, and return its new value."
        )


def _name(place: Holder, key: Any) -> str:
    return place.called if key is None else f"{place.called}[{key!r}]" if place.called else str(key)
