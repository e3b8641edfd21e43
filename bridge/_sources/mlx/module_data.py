"""Values in a module of MLX: which of them are data, so that another value is a change."""

import collections
import enum
from typing import Any

import mlx.core as mx

from bridge._arrays.numpy_copies import read_memory

Change = tuple[str, Any, Any]  # the name, the old value and the new one


class _NoDataError(Exception):
    """An object that may be a cache, such as a compiled function."""


def is_change(old: Any, new: Any) -> bool:
    """Return True if two values are data, and differ.

    An object where there was none may be made once and kept; one in place of another has changed.
    """
    may_be_object = old is not None and new is not None
    try:
        return _data_of(old, _DEPTH, may_be_object) != _data_of(new, _DEPTH, may_be_object)
    except _NoDataError:
        return False


_DEPTH = 8
_ATOMS = (type(None), bool, int, float, complex, str, bytes, enum.Enum)


def _data_of(x: Any, depth: int, may_be_object: bool) -> Any:  # noqa: FBT001, it is passed on
    """Return what `x` holds as something that can be compared; raise if it may be a cache."""
    if isinstance(x, _ATOMS):
        return x
    inner: Any = lambda y: _data_of(y, depth - 1, may_be_object)
    if not depth or isinstance(x, mx.array):
        raise _NoDataError
    if memory := read_memory(x):
        return memory
    if isinstance(x, dict):
        return {key: inner(value) for key, value in dict.items(x)}
    if isinstance(x, (list, tuple, set, frozenset, collections.deque)):
        members = [*map(inner, x)]
        return {*x} if isinstance(x, (set, frozenset)) else members
    if not may_be_object or callable(x) or not getattr(x, "__dict__", None):
        raise _NoDataError
    return type(x), {name: inner(value) for name, value in vars(x).items()}


def holds_array(x: Any) -> bool:
    """Return True if `x` is an array of MLX, or a container or an object that holds one."""
    return _holds_array(x, _DEPTH)


def _holds_array(x: Any, depth: int) -> bool:
    if isinstance(x, mx.array) or not depth:
        return isinstance(x, mx.array)
    if isinstance(x, dict):
        members = [*dict.values(x)]
    elif isinstance(x, (list, tuple, set, frozenset, collections.deque)):
        members = [*x]
    else:
        members = [] if callable(x) or not hasattr(x, "__dict__") else [*vars(x).values()]
    return any(_holds_array(member, depth - 1) for member in members)
