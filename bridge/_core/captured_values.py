"""Places where a function finds values besides its arguments, and can put others."""

import dataclasses
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True, eq=False)
class Holder:
    """A place that holds values.

    Attributes:
        holder: A cell of a closure, a dictionary or a list.
        names: Which keys of a dictionary count, if not all.
        called: What it is to the user.
    """

    holder: Any
    called: str = ""
    names: frozenset[str] | None = None

    def contents(self) -> dict[Any, Any]:
        """What is in it by key."""
        holder = self.holder
        if isinstance(holder, types.CellType):
            return {None: holder.cell_contents} if holder != _EMPTY else {}
        if isinstance(holder, dict):
            keys = holder if self.names is None else self.names & holder.keys()
            return {key: holder[key] for key in keys}
        return dict(enumerate(holder))

    def restore(self, before: dict[Any, Any], is_array: Callable[[Any], bool]) -> list[Any]:
        """Put back the arrays among its contents `before`; the keys of those that were replaced."""
        now, replaced = self.contents(), list[Any]()
        for key, value in before.items():
            other = now.get(key, _NONE)
            if other is value:
                continue
            if is_array(value):
                replaced.append(key)
            if is_array(value) or is_array(other):
                self._put(key, value)
        self._remove([key for key, x in now.items() if key not in before and is_array(x)])
        return replaced

    def _put(self, key: Any, value: Any) -> None:
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif isinstance(self.holder, list) and key >= len(self.holder):  # it has become shorter
            self.holder.append(value)
        else:
            self.holder[key] = value

    def _remove(self, keys: list[Any]) -> None:
        for key in sorted(keys, reverse=True) if isinstance(self.holder, list) else keys:
            if isinstance(self.holder, types.CellType):
                del self.holder.cell_contents
            else:
                del self.holder[key]


_EMPTY = types.CellType()
_NONE = object()


def holders(x: Any) -> list[Holder]:
    """The places that `x` is, or that it can name if it is a function."""
    if isinstance(x, types.FunctionType):
        closed = zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
        own = Holder(x.__globals__, names=frozenset(names(x.__code__)))
        return [own, *(Holder(cell, name) for name, cell in closed)]
    if isinstance(x, (dict, list)):
        return [Holder(x, type(x).__name__)]
    plain = hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType, types.MethodType))
    return [Holder(vars(x), str(type(x).__name__))] if plain else []


def names(code: types.CodeType) -> set[str]:
    """The names that `code` looks up, and the functions in it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names}.union(*map(names, inner))


def walk_holders(
    x: Any, is_module: Callable[[Any], bool], seen: set[int] | None = None
) -> Iterator[Any]:
    """`x`, and what it can name if it is a function or holds functions; of modules no parts."""
    seen = set() if seen is None else seen
    if id(x) in seen:
        return
    seen.add(id(x))
    yield x
    for part in () if is_module(x) else _named_values(x):
        yield from walk_holders(part, is_module, seen)


def _named_values(x: Any) -> list[Any]:
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


_MOST = 100  # layers are few; what is long are data


def _is_elsewhere(x: Any, fn: types.FunctionType) -> bool:
    return isinstance(x, types.FunctionType) and x.__globals__ is not fn.__globals__


def _is_callable_object(x: Any) -> bool:
    return callable(x) and hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType))
