"""Places where a function finds arrays, which it can write to or fill with others.

NOTE [arrays that change]
A function that writes to an array that it captures, or gives its name to another, does so each time
it runs: also when it is looked at with arrays that have no values, which nobody could evaluate
afterwards. The places that it can name get back what they held, and the change is refused.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from bridge._core.captured_values import Holder
from bridge._sources.mlx.dot_graph import is_same_node
from bridge._sources.mlx.random import KEYS


class CapturedArrays:
    """What places hold now, to be put back: NOTE [arrays that change]."""

    def __init__(self, places: Iterator[Holder]) -> None:
        self._before = [(place, place.contents()) for place in places if place.holder is not KEYS]
        # The same arrays as other objects, which no one writes to.
        self._arrays = {
            id(x): (x, x[...], place, key)
            for place, contents in self._before
            for key, x in contents.items()
            if _is_array(x)
        }

    def put_back(self) -> list[str]:
        """The names of the arrays that were written to or replaced, before they were put back."""
        replaced = [
            _named(place, key)
            for place, before in self._before
            for key in place.restore(before, _is_array)
        ]
        written = []
        for x, as_it_was, place, key in self._arrays.values():
            if not is_same_node(x, as_it_was):
                x[...] = as_it_was
                written.append(_named(place, key))
        return [*replaced, *written]


def _is_array(x: Any) -> bool:
    return isinstance(x, mx.array)


def _named(place: Holder, key: Any) -> str:
    return place.called if key is None else f"{place.called}[{key!r}]" if place.called else str(key)
