"""Arrays inside of objects that are no containers known to a call."""

import functools
import inspect
import types
from collections import deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, ValuesView
from typing import Any

from bridge import _registry
from bridge._core.holder import own_slot_names

_MANY_OBJECTS = 10_000


def holds_arrays(x: Any, is_meant: Callable[[str], bool]) -> bool:
    """Return True if `x` is, or holds, an array of a framework that `is_meant` accepts.

    Members and attributes are searched, and theirs in turn.
    """
    seen: dict[int, Any] = {}
    queue = [x]
    while queue and len(seen) < _MANY_OBJECTS:
        inner = queue.pop()
        if id(inner) in seen or isinstance(inner, type) or inspect.isroutine(inner):
            continue
        seen[id(inner)] = inner
        owner = _registry.array_owner(inner)
        if owner is None:
            queue += _members(inner)
        elif is_meant(owner.name):
            return True
    return False


def _members(x: Any) -> list[Any]:
    """Return the members and attributes of an object."""
    if isinstance(x, (str, bytes, bytearray, int, float, complex, range, types.ModuleType)):
        return []
    if isinstance(x, Mapping):
        return list(x.values())
    members = list(x) if isinstance(x, _COLLECTIONS) else []
    slots = [name for cls in type(x).__mro__ for name in own_slot_names(cls)]
    attributes = [*getattr(x, "__dict__", {}).values(), *(getattr(x, s, None) for s in slots)]
    if isinstance(x, functools.partial):
        attributes += [x.func, x.args, x.keywords]
    return members + attributes


# Not every collection, since reading one may run code of the user's.
_COLLECTIONS = (tuple, list, set, frozenset, deque, KeysView, ValuesView, ItemsView)
