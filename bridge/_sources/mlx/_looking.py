"""Runs of a function that only find out what it does, and should leave no trace.

NOTE [modules that change]
A function that captures a module changes it, as the running statistics of a normalization, each
time it runs: also when it is looked at with arrays that have no values, which would stay in the
module, and when it runs again for a derivative. The modules that it can name get back what they
held, and the change is refused: a module that is itself passed to bridge returns its buffers.
"""

import contextlib
import functools
import itertools
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import mlx.core as mx

from bridge._errors import ArgumentError
from bridge._sources.mlx._places import Kept, names, places
from bridge._sources.mlx._random import untouched


class _Local(threading.local):
    """Whether functions run only to be looked at in this thread."""

    looking: bool = False


_local = _Local()


@contextlib.contextmanager
def looking() -> Generator[None]:
    """Functions that run in here change neither random numbers nor modules."""
    outer, _local.looking = _local.looking, True
    try:
        with untouched():
            yield
    finally:
        _local.looking = outer


def run_on(fn: Callable[..., Any], xs: list[mx.array]) -> Any:
    """The results of `fn`: NOTE [modules that change]."""
    if not _local.looking:
        return fn(*xs)
    reached = [*_reached(fn, set())]
    modules = {id(part): part for x in reached if _is_module(x) for part in x.modules()}
    before = [(part, dict(part), dict(vars(part))) for part in modules.values()]
    kept = Kept(place for x in reached if not _is_module(x) for place in places(x))
    changed: list[str] = []
    try:
        found = fn(*xs)
    finally:
        for part, items, attributes in before:
            names = _restored(part, items)
            _restored(vars(part), attributes)
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


def _restored(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
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


def _reached(x: Any, seen: set[int]) -> Iterator[Any]:
    """`x`, and what it can name if it is a function or holds functions; of modules no parts."""
    if id(x) in seen:
        return
    seen.add(id(x))
    yield x
    for part in () if _is_module(x) else _named(x):
        yield from _reached(part, seen)


def _named(x: Any) -> list[Any]:
    """What `x` holds, and what a function names that is of its own file, or no function."""
    if isinstance(x, types.FunctionType):
        cells = [cell.cell_contents for cell in x.__closure__ or () if cell != _EMPTY]
        named = [x.__globals__.get(name) for name in names(x.__code__)]
        here = [y for y in named if not _is_elsewhere(y, x)]
        return [*cells, *here, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()]
    if isinstance(x, types.MethodType):
        return [x.__func__, x.__self__]
    if isinstance(x, functools.partial):
        return [x.func, *x.args, *x.keywords.values()]
    if isinstance(x, (list, tuple, dict)):
        return [*itertools.islice(x.values() if isinstance(x, dict) else x, _MOST)]
    return [*vars(x).values()] if _is_callable_object(x) else []


_EMPTY = types.CellType()
_MOST = 100  # layers are few; what is long are data


def _is_elsewhere(x: Any, fn: types.FunctionType) -> bool:
    return isinstance(x, types.FunctionType) and x.__globals__ is not fn.__globals__


def _is_callable_object(x: Any) -> bool:
    return callable(x) and hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType))
