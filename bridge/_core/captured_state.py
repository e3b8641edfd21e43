"""The state that a function captures at a call, restored while a derivative of the call runs.

NOTE [the state of a call]
A function that is rerun for its derivative reads what it captures once more: a number that was
changed since, or that the function itself counts up, would give a gradient of another function
than the one that was called. So a caller reads the state before a call, and the derivative runs on
that state. Nothing that happens meanwhile stays: what was there before is put back.

NOTE [states like the last]
To find the places takes as long as to call a small function. They are where they were as long as
all of them hold the same objects, which takes a microsecond or two to see.
"""

import contextlib
import dataclasses
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import is_
from typing import Any, Protocol

from bridge._core.captured_values import Holder, holders, walk_holders
from bridge._core.trial_state import copy_iterator, is_copyable_iterator

Snapshots = Sequence[tuple[Any, Any]]  # arrays, each with what it was


def find_places(fn: Callable[..., Any], ends_walk: Callable[[Any], bool]) -> Iterator[Holder]:
    """Yield the places where `fn` finds values now; objects that end the walk have none."""
    for x in walk_holders(fn, ends_walk):
        if not ends_walk(x):
            yield from holders(x)


class MutableObjects(Protocol):
    """Copies, compares and restores objects that can change in place, such as arrays."""

    def can_copy(self, x: Any) -> bool:
        """Return True if `x` can change in place and can be copied."""
        ...

    def copy(self, arrays: Sequence[Any]) -> Snapshots:
        """Return each of `arrays` with a copy of its present state."""
        ...

    def changed(self, copies: Snapshots) -> Snapshots:
        """Return those of `copies` whose objects have changed since."""
        ...

    def restore(self, copies: Snapshots) -> None:
        """Restore the objects to their copied states."""
        ...


class StateReader:
    """Reads the state of a function: NOTE [states like the last].

    Args:
        find: Returns the places where the function finds values now.
        arrays: Copies and restores objects that can change in place.
    """

    def __init__(
        self, find: Callable[[], Iterable[Holder]], arrays: MutableObjects | None = None
    ) -> None:
        self._find, self.arrays = find, arrays
        self._last: Contents | None = None

    def __call__(self) -> "CapturedState":
        """Return the current state."""
        last = self._last
        if last is None or not last.is_current():
            last = self._last = Contents(self._find(), self.arrays)
        return self._state(last)

    def with_places(self, others: Iterable[Holder]) -> "CapturedState":
        """Return the current state, with the contents of the places `others` in it."""
        return self._state(Contents([*others, *self._find()], self.arrays))

    def _state(self, contents: "Contents") -> "CapturedState":
        copies = self.arrays.copy(contents.arrays) if self.arrays and contents.arrays else ()
        iterators = [(place, key, copy_iterator(x)) for place, key, x in contents.iterators]
        return CapturedState(self, contents, copies, iterators)


class Contents:
    """Places, and their contents when this object was made."""

    def __init__(self, places: Iterable[Holder], arrays: MutableObjects | None = None) -> None:
        self.by_place = [(place, place.contents()) for place in places]
        values = {
            id(x): x for p, before in self.by_place for x in before.values() if _may_change(p, x)
        }
        self.arrays = [x for x in values.values() if arrays and arrays.can_copy(x)]
        changeable = [(p, before) for p, before in self.by_place if not p.is_fixed]
        pairs = [(p, key, x) for p, before in changeable for key, x in before.items()]
        self.iterators = [each for each in pairs if is_copyable_iterator(each[2])]
        self._checks = _make_checks(changeable)

    def is_current(self) -> bool:
        """Return True if the places still hold the same objects."""
        for check in self._checks:  # noqa: SIM110, all() with a generator takes twice as long
            if not check():
                return False
        return True

    def restore(self) -> list[tuple[Holder, Any]]:
        """Restore these contents; return the places and keys of the values that had changed."""
        return [(place, key) for place, before in self.by_place for key in place.restore(before)]


def _may_change(place: Holder, x: Any) -> bool:
    """Return True if `x` may change in place; a module counts only where code names `random`."""
    if not isinstance(x, types.ModuleType) or place.names is None:
        return True
    return "random" in {*place.names, x.__name__.rpartition(".")[2]}


_Before = dict[Any, Any]


def _make_checks(by_place: list[tuple[Holder, _Before]]) -> list[Callable[[], bool]]:
    """Return functions that return True if places hold the same objects as before.

    Dicts and lists, which are most of them, are compared in one go.
    """
    dicts, lists, others = list[Any](), list[Any](), list[Callable[[], bool]]()
    named: dict[int, tuple[Any, _Before]] = {}
    for place, before in by_place:
        if place.names is not None:
            _, values = named.setdefault(id(place.holder), (place.holder, {}))
            values.update({name: before.get(name, _MISSING) for name in place.names})
        elif type(place.holder) is dict or place.is_raw:
            dicts.append((place.holder, before))
        elif type(place.holder) is list:
            lists.append((place.holder, before))
        else:
            others.append(_check(place, before))
    checks = [_check_names(holder, before) for holder, before in named.values()]
    # Another order of the keys counts as a change.
    checks += [_check_all(dicts, dict.values), _check_all(dicts, dict.keys)] if dicts else []
    return [*checks, *([_check_all(lists, iter)] if lists else []), *others]


_MISSING = object()


def _check_names(holder: _Before, before: _Before) -> Callable[[], bool]:
    keys, values, missing = [*before], [*before.values()], itertools.repeat(_MISSING)
    return lambda: all(map(is_, map(holder.get, keys, missing), values))


def _check_all(
    pairs: Sequence[tuple[Any, _Before]], items: Callable[[Any], Iterable[Any]]
) -> Callable[[], bool]:
    """Return a check that the `items` of many containers are the same objects as before."""
    containers, befores = [x for x, _ in pairs], [before for _, before in pairs]
    length = list.__len__ if items is iter else dict.__len__  # a subclass may have its own
    sizes, flatten = [*map(len, befores)], itertools.chain.from_iterable
    objects = [*flatten(befores if items is dict.keys else map(dict.values, befores))]
    return lambda: (
        [*map(length, containers)] == sizes
        and all(map(is_, flatten(map(items, containers)), objects))
    )


def _check(place: Holder, before: _Before) -> Callable[[], bool]:
    holder = place.holder
    if isinstance(holder, types.CellType) and before:
        (value,) = before.values()
        return lambda: _cell_holds(holder, value)

    def is_same() -> bool:
        now = place.contents()
        is_alike = now.keys() == before.keys() if isinstance(holder, set) else [*now] == [*before]
        return is_alike and all(map(is_, map(now.get, before), before.values()))

    return is_same


def _cell_holds(cell: types.CellType, value: Any) -> bool:
    try:
        return cell.cell_contents is value
    except ValueError:  # it is empty
        return False


@dataclasses.dataclass(frozen=True, eq=False)
class CapturedState:
    """The contents of the places that a function captures: NOTE [the state of a call].

    Attributes:
        reader: The reader that has read it.
        contents: The places, with their contents at that time.
        copies: Objects in them that can change in place, each with a copy of its state.
        iterator_copies: Places and keys of iterators, each with a copy at the same position.
    """

    reader: StateReader
    contents: Contents
    copies: Snapshots
    iterator_copies: Sequence[tuple[Holder, Any, Any]]

    def restored(self) -> "_Restored":
        """Return a context with this state restored, at whose end the present one is restored."""
        return _Restored(self)

    def restore(self) -> list[tuple[Holder, Any]]:
        """Restore this state; return the places and keys of the values that had changed."""
        by_place, replaced = self.contents.by_place, list[tuple[Holder, Any]]()
        if not self.contents.is_current():
            replaced = self.contents.restore()
        changed = self.changed_arrays()
        if changed and self.reader.arrays:
            self.reader.arrays.restore(changed)
            written = {id(x) for x, _ in changed}
            pairs = [(place, key, x) for place, before in by_place for key, x in before.items()]
            replaced += [(place, key) for place, key, x in pairs if id(x) in written]
        return replaced

    def changed_arrays(self) -> Snapshots:
        """Return the objects that were changed in place since, each with its copied state."""
        return self.reader.arrays.changed(self.copies) if self.copies and self.reader.arrays else ()


class _Restored:
    """A context with an earlier state; one made by a generator would take twice as long."""

    __slots__ = ("_now", "_state")

    def __init__(self, state: CapturedState) -> None:
        self._state = state

    def __enter__(self) -> None:
        state = self._now = self._state
        if not state.contents.is_current() or state.changed_arrays() or state.iterator_copies:
            self._now = state.reader.with_places(place for place, _ in state.contents.by_place)
            state.restore()
            for place, key, iterator in state.iterator_copies:
                place.put(key, copy_iterator(iterator))

    def __exit__(self, *_: object) -> None:
        # Arrays are not compared again, since functions that write to them are refused.
        if self._now is not self._state or not self._now.contents.is_current():
            self._now.restore()


def restored(state: CapturedState | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which `state` is restored, if there is one."""
    return state.restored() if state else _NOTHING


_NOTHING = contextlib.nullcontext()
