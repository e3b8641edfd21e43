"""Places where a function finds arrays, which it can write to or fill with others.

NOTE [arrays that change]
A function that writes to an array that it captures, or gives its name to another, does so each time
it runs: also when it is looked at with arrays that have no values, which nobody could evaluate
afterwards. The places that it can name get back what they held, and the change is refused.
"""

import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from bridge._sources.mlx._drawing import is_same
from bridge._sources.mlx._random import KEYS


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
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

    def put(self, key: Any, value: Any) -> None:
        """Put `value` where `key` says."""
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        else:
            self.holder[key] = value

    def remove(self, keys: list[Any]) -> None:
        """Empty it of these `keys`."""
        for key in sorted(keys, reverse=True) if isinstance(self.holder, list) else keys:
            if isinstance(self.holder, types.CellType):
                del self.holder.cell_contents
            else:
                del self.holder[key]


_EMPTY = types.CellType()


class Kept:
    """What places hold now, to be put back: NOTE [arrays that change]."""

    def __init__(self, places: Iterator[Place]) -> None:
        self._before = [(place, place.contents()) for place in places if place.holder is not KEYS]
        # The same arrays as other objects, which no one writes to.
        self._arrays = {
            id(x): (x, x[...], place, key)
            for place, contents in self._before
            for key, x in contents.items()
            if isinstance(x, mx.array)
        }

    def put_back(self) -> list[str]:
        """The names of the arrays that were written to or replaced, before they were put back."""
        changed = [self._restored(place, before) for place, before in self._before]
        written = []
        for x, as_it_was, place, key in self._arrays.values():
            if not is_same(x, as_it_was):
                x[...] = as_it_was
                written.append(_named(place, key))
        return [*[name for names in changed for name in names], *written]

    def _restored(self, place: Place, before: dict[Any, Any]) -> list[str]:
        now, changed = place.contents(), list[str]()
        for key, value in before.items():
            if now.get(key, _NONE) is value:
                continue
            if isinstance(value, mx.array):
                changed.append(_named(place, key))
            if isinstance(value, mx.array) or isinstance(now.get(key), mx.array):
                place.put(key, value)
        place.remove([k for k, x in now.items() if k not in before and isinstance(x, mx.array)])
        return changed


_NONE = object()


def _named(place: Place, key: Any) -> str:
    return place.called if key is None else f"{place.called}[{key!r}]" if place.called else str(key)


def places(x: Any) -> list[Place]:
    """The places that `x` is, or that it can name if it is a function."""
    if isinstance(x, types.FunctionType):
        closed = zip(x.__code__.co_freevars, x.__closure__ or (), strict=True)
        own = Place(x.__globals__, names=frozenset(names(x.__code__)))
        return [own, *(Place(cell, name) for name, cell in closed)]
    if isinstance(x, (dict, list)):
        return [Place(x, type(x).__name__)]
    plain = hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType, types.MethodType))
    return [Place(vars(x), str(type(x).__name__))] if plain else []


def names(code: types.CodeType) -> set[str]:
    """The names that `code` looks up, and the functions in it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names}.union(*map(names, inner))
