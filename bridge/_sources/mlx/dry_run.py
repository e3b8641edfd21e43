"""Runs of a function that only find out what it does, and should leave no trace.

NOTE [modules that change]
A function that captures a module changes it, as the running statistics of a normalization, each
time it runs: also when it is looked at with arrays that have no values, which would stay in the
module, and when it runs again for a derivative. The modules that it can name get back what they
held, and the change is refused: a module that is itself passed to bridge returns its buffers.
"""

import contextlib
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._core.captured_values import holders, walk_holders
from bridge._core.errors import ArgumentError
from bridge._sources.mlx.captured_arrays import CapturedArrays
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
    """The results of `fn`: NOTE [modules that change]."""
    if not _local.looking:
        return fn(*xs)
    captured = [*walk_holders(fn, _is_module)]
    modules = {id(part): part for x in captured if _is_module(x) for part in x.modules()}
    before = [(part, dict(part), dict(vars(part))) for part in modules.values()]
    kept = CapturedArrays(place for x in captured if not _is_module(x) for place in holders(x))
    changed: list[str] = []
    try:
        found = fn(*xs)
    finally:
        for part, items, attributes in before:
            names = _restore(part, items)
            _restore(vars(part), attributes)
            if any(isinstance(items.get(name), mx.array) for name in names):
                changed.append(type(part).__name__)
        arrays = kept.put_back()
    _check_unchanged(changed, arrays)
    return found


def _check_unchanged(modules: list[str], arrays: list[str]) -> None:
    if modules:
        raise ArgumentError(
            f"the function captures a module and changes arrays in it, in {modules[0]}, as it "
            "would again for each derivative. Pass the module itself, whose apply() returns its "
            "buffers, or call its eval() first."
        )
    if arrays:
        raise ArgumentError(
            f"the function changes an array that it captures, {arrays[0]}, as it would again for "
            "each derivative. Take it as an argument, and return its new value."
        )


def _restore(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The names that meant something else in `now`, and mean again what they did."""
    names = [
        name for name in {**now, **before} if now.get(name, _NONE) is not before.get(name, _NONE)
    ]
    for name in names:  # no others: another thread may be using the module
        if name in before:
            dict.__setitem__(now, name, before[name])
        else:
            dict.__delitem__(now, name)
    return names


_NONE = object()


def _is_module(x: Any) -> bool:
    nn = sys.modules.get("mlx.nn")
    return nn is not None and isinstance(x, nn.Module)
