"""The objects that a function or a module can reach, in modules of MLX of any size.

Few objects are enough elsewhere: NOTE [what a function can reach]. A module is state of the user's,
however many layers it has.
"""

import collections
import types
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import is_module
from bridge._arrays.mlx.upstream.modules import OWN_ATTRIBUTES
from bridge._core.captured_values import Holder, holders, walk_holders

_SHARED = (types.FunctionType, types.ModuleType, type)
_SKIPPED = (mx.array, str, int, float, complex, bytes, type(None))


def reachable(x: Any, ends_walk: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield `x` and what it can reach, each once; objects that end the walk have no parts."""
    seen, queue = set[int](), collections.deque([x])
    while queue:
        x = queue.popleft()
        if isinstance(x, (dict, list)):  # a module, or a container in one
            if id(x) not in seen:
                seen.add(id(x))
                yield x
                queue.extend(_members(x))
            continue
        for y in walk_holders(x, lambda y: is_module(y) or ends_walk(y), seen):
            yield y
            if is_module(y):
                queue.extend(_members(y))


def places(x: Any) -> list[Holder]:
    """Return the places of values in `x`, as `holders` does, for modules of this package too."""
    name = type(x).__name__
    if is_module(x):
        return [Holder(x, name, is_raw=True), Holder(vars(x), name)]
    return [Holder(x, name)] if isinstance(x, (dict, list)) else holders(x)


def owned(module: Any) -> Iterator[Any]:
    """Yield a module and what it holds, but nothing that functions and classes of it name."""
    return (x for x in reachable(module, is_shared) if not is_shared(x))


def is_shared(x: Any) -> bool:
    """Return True for what a copy of a module has in common with it."""
    return isinstance(x, _SHARED)


def _members(x: Any) -> list[Any]:
    values = [*(dict.values(x) if isinstance(x, dict) else x)]
    if is_module(x):
        values += [value for name, value in vars(x).items() if name not in OWN_ATTRIBUTES]
        values.append(type(x))
    return [value for value in values if not isinstance(value, _SKIPPED)]
