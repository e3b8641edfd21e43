"""What a module of MLX holds, and what a call changes in it.

NOTE [what a call may change]
A call computes with arrays that are put into a module in place of its own. What it stores there is
a new value of a buffer. All else that it changes would be lost, in another copy of the module or in
a file of its weights, and is refused; but not a cache, such as a function that it has compiled, nor
a generator of random numbers. Afterwards the module holds what it held before.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from bridge._arrays.mlx.upstream.dot_graph import have_same_nodes, is_same_node
from bridge._arrays.mlx.upstream.modules import MODE
from bridge._arrays.numpy_copies import is_random
from bridge._core.captured_state import Contents
from bridge._core.captured_values import Holder
from bridge._sources.mlx.captured_state import ArraySnapshots
from bridge._sources.mlx.module_data import Change, holds_array, is_change
from bridge._sources.mlx.module_places import Path, at
from bridge._sources.mlx.reachable import is_shared, owned, places, reachable

Arrays = dict[str, mx.array]


@dataclasses.dataclass(frozen=True)
class Changes:
    """The changes that a call has made in a module: NOTE [what a call may change].

    Attributes:
        arrays: New values of arrays that were put in, by name.
        others: The names of other arrays that it has changed or added.
        values: Changes of Python values, such as counters.
    """

    arrays: Arrays
    others: list[str]
    values: list[Change]


class ModuleContents:
    """The parameters and buffers of a module by name, and all else that it holds."""

    def __init__(self, module: nn.Module, paths: Mapping[str, Path]) -> None:
        self._module, self._paths = module, paths
        self.read()

    @functools.cached_property
    def shared(self) -> tuple[Any, ...]:
        """What a call may change, such as a global that a function in the module names."""
        if self._contents.iterators:  # which other code restores in their places
            return (self._module,)
        objects = reachable(self._module, is_shared)
        return tuple(x for x in objects if is_shared(x) or is_random(x))

    def read(self) -> None:
        """Note what the module holds now."""
        self._places = [(at(self._module, path[:-1]), path[-1]) for path in self._paths.values()]
        self._own = [owner[key] for owner, key in self._places]
        own = {*map(id, self._own)}
        holders = itertools.chain.from_iterable(map(places, owned(self._module)))
        self._contents = Contents(holders, _SNAPSHOTS)
        self._copies = _SNAPSHOTS.copy([x for x in self._contents.arrays if id(x) not in own])

    def edited(self) -> str | None:
        """Return the name of another array or a Python value that is another now, or None."""
        named = {(id(owner), key) for owner, key in self._places}
        for place, key, old, new in self._differences():
            is_edit = is_change(old, new) or holds_array(old) or holds_array(new)
            if is_edit and (id(place.holder), key) not in named:
                return str(key)
        return None

    def call(self, arrays: Mapping[str, mx.array], run: Callable[[], Any]) -> tuple[Any, Changes]:
        """Return the result of `run` with these arrays in the module, and what it changes."""
        if not self._contents.is_current():  # a checkpoint writes here after a call; so do dry runs
            self.read()
        passed = [arrays[name] for name in self._paths]
        # New objects for the same arrays: `+=` in a call would write to those of the caller.
        inside = [x[...] for x in passed]
        self._put(inside)
        changed = Changes({}, [], [])
        try:
            result = run()
        finally:
            replaced = self._take_out(inside)
            if not self._is_same():
                changed = self._classify()
                self.restore()
        changed.arrays.update(self._written(passed, inside) | replaced)
        return result, changed

    def put(self, arrays: Mapping[str, mx.array]) -> None:
        """Let the module hold these arrays, until `take_back`."""
        self._put([arrays[name] for name in self._paths])

    def take_back(self) -> None:
        """Let the module hold what it held before `put`; the same as `restore`, but faster."""
        self._put(self._own)
        if not self._is_same():
            self.restore()

    def _put(self, xs: Sequence[mx.array]) -> None:
        for (owner, key), x in zip(self._places, xs, strict=True):
            owner[key] = x

    def _take_out(self, inside: Sequence[mx.array]) -> Arrays:
        """Put the module's own arrays back; return those that a call has stored there."""
        replaced: Arrays = {}
        for name, place, own, x in zip(self._paths, self._places, self._own, inside, strict=True):
            owner, key = place
            now = _get(owner, key)
            if isinstance(now, mx.array):
                owner[key] = own
                if now is not x:
                    replaced[name] = now
        return replaced

    def _written(self, passed: Sequence[mx.array], inside: Sequence[mx.array]) -> Arrays:
        """Return the arrays put in that were written to, as by `+=`."""
        if have_same_nodes(passed, inside):  # fast
            return {}
        triples = zip(self._paths, passed, inside, strict=True)
        return {name: x for name, before, x in triples if not is_same_node(x, before)}

    def _is_same(self) -> bool:
        return self._contents.is_current() and not self._changed_in_place()

    def _changed_in_place(self) -> list[Any]:
        if not self._copies:
            return []
        return [x for x, _ in _SNAPSHOTS.changed(self._copies)]

    def restore(self) -> None:
        """Let the module hold what it held."""
        self._contents.restore()
        _SNAPSHOTS.restore(_SNAPSHOTS.changed(self._copies))

    def _classify(self) -> Changes:
        others, values = [*map(self._name, self._changed_in_place())], list[Change]()
        for _, key, old, new in self._differences():
            if holds_array(old) or holds_array(new):
                others.append(str(key))
            elif is_change(old, new):
                values.append((str(key), old, new))
        return Changes({}, others, values)

    def _differences(self) -> Iterator[tuple[Holder, Any, Any, Any]]:
        """Yield places and keys of what has changed there, with the old value and the new one."""
        for place, before in self._contents.by_place:
            now = place.contents()
            if [*now] == [*before] and all(map(is_, now.values(), before.values())):
                continue
            if isinstance(place.holder, (set, collections.deque)):
                kind = type(place.holder)
                yield place, self._name(place.holder), kind(before.values()), kind(now.values())
                continue
            for key in {**before, **now}:
                old, new = before.get(key), now.get(key)
                if new is not old and key != MODE:
                    yield place, key, old, new

    def _name(self, x: Any) -> str:
        """Return the name at which the module holds `x`."""
        pairs = (pair for _, before in self._contents.by_place for pair in before.items())
        return next((str(key) for key, value in pairs if value is x), type(x).__name__)


def _get(owner: Any, key: Any) -> Any:
    """Return what a dict or a list holds at a key, or None."""
    if isinstance(owner, dict):
        return dict.get(owner, key)
    return owner[key] if key < len(owner) else None


class _Snapshots(ArraySnapshots):
    def can_copy(self, x: Any) -> bool:
        return super().can_copy(x) and not is_random(x)


_SNAPSHOTS = _Snapshots(may_evaluate=False)
