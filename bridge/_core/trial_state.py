"""The state that a function keeps, restored after runs that leave no trace.

NOTE [iterators]
An iterator cannot be told to go back. So a run that leaves no trace takes from a copy in its place,
and one that cannot be copied, as a generator, is refused before anything is taken from it.
"""

import array
import ast
import copy
import functools
import itertools
import operator
import random
import types
from collections.abc import Callable, Iterable
from typing import Any

from bridge._core.captured_values import Holder, holders
from bridge._core.errors import ArgumentError

Restore = Callable[[], None]


class TrialState:
    """The contents of places, and the states of objects that change in place, to be restored.

    Args:
        objects: What a function can reach.
        save: Returns a function that restores an object, or None.
        find_places: Returns the places of values in an object.
    """

    def __init__(
        self,
        objects: Iterable[Any],
        save: Callable[[Any], Restore | None] = lambda _: None,
        find_places: Callable[[Any], list[Holder]] = holders,
    ) -> None:
        objects = [*objects]
        places = [place for x in objects for place in find_places(x) if not place.is_fixed]
        self._contents = [(place, place.contents()) for place in places]
        saved = [save(x) or _save(x) for x in objects]
        self._restore = [
            *filter(None, saved),
            functools.partial(random.setstate, random.getstate()),
        ]
        self._stand_ins: dict[int, Any] = {}

    def protect_iterators(self) -> None:
        """Replace iterators by copies or by stand-ins, until `restore`: NOTE [iterators]."""
        self._stand_ins.clear()
        for place, before in self._contents:
            for key, x in before.items():
                other = self._stand_in(x)
                if other is not x:
                    place.put(key, other)

    def restore(self) -> None:
        """Restore the contents of the places, and the states of the objects."""
        for place, before in self._contents:
            place.restore(before)
        for restore in self._restore:
            restore()

    def newly_stored_values(self) -> list[Any]:
        """Return the values in the places that were not there before."""
        return [
            x
            for place, before in self._contents
            for key, x in place.contents().items()
            if x is not before.get(key, _NONE)
        ]

    def _stand_in(self, x: Any) -> Any:
        if type(x) is tuple:
            others = tuple(map(self._stand_in, x))
            return x if all(map(operator.is_, x, others)) else others
        if not isinstance(x, (*_COPIED, *_REFUSED)):
            return x
        if id(x) not in self._stand_ins:
            self._stand_ins[id(x)] = copy_iterator(x) if is_copyable_iterator(x) else _Refusing(x)
        return self._stand_ins[id(x)]


class _Refusing:
    """A stand-in for an iterator, which raises where something is taken from it."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __iter__(self) -> "_Refusing":
        return self

    def __next__(self) -> Any:
        kind = type(self._iterator).__name__
        article = "an" if kind[0] in "aeiou" else "a"
        raise ArgumentError(
            f"the function takes from {article} {kind} that it captures, which cannot go back, and "
            "functions also run to make a graph of them, or to learn what they return. Take from "
            "it outside, and pass what it gives as an argument."
        )

    def send(self, _: Any) -> Any:
        """Raise, as `next` does."""
        return next(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def is_copyable_iterator(x: Any) -> bool:
    """Return True if `x` is an iterator that can be copied."""
    return isinstance(x, _COPIED)


def copy_iterator(x: Any) -> Any:
    """Return a copy of the iterator `x`, at the same position."""
    if isinstance(x, itertools.count):  # its text says where; copies are deprecated since 3.12
        return itertools.count(*ast.literal_eval(f"({repr(x)[len('count(') : -1]},)"))
    return copy.copy(x)


def _container_iterator_types() -> tuple[type, ...]:
    """Return the types of iterators over built-in containers, which can be copied."""
    containers: list[Any] = [[], (), "", "é", b"", bytearray(), {}, set(), range(0), range(2**70)]
    several = [{}.keys(), {}.values(), {}.items()]
    backwards: list[Any] = [reversed([]), reversed(()), reversed({})]
    return tuple({type(iter(x)) for x in [*containers, *several, *backwards]})


_COPIED: tuple[type, ...] = (itertools.count, *_container_iterator_types())
_REFUSED: tuple[type, ...] = (
    *(types.GeneratorType, enumerate, zip, map, filter),
    *(x for x in vars(itertools).values() if isinstance(x, type) and x is not itertools.count),
)


def _save(x: Any) -> Restore | None:
    """Return a function that restores an object that changes in place; None for other kinds."""
    if isinstance(x, random.Random):
        return functools.partial(x.setstate, x.getstate())
    if isinstance(x, (bytearray, array.array)) and len(x) * memoryview(x).itemsize <= MOST_BYTES:
        return functools.partial(x.__setitem__, slice(None), x[:])
    if isinstance(x, functools._lru_cache_wrapper):  # pyright: ignore[reportPrivateUsage]
        return functools.partial(_clear_if_changed, x, x.cache_info())
    return None


MOST_BYTES = 2**27  # of which a copy takes some 50 ms; what is larger is left as it is


def _clear_if_changed(cached: Any, info: Any) -> None:
    if cached.cache_info() != info:  # nothing can be taken out of it alone
        cached.cache_clear()


_NONE = object()
