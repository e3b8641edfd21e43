"""Places that hold values, which can be restored."""

import collections
import dataclasses
import types
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any


def own_slot_names(cls: type) -> list[str]:
    """Return the names of the slots that a class itself gives to its objects, as they are stored.

    That of a private slot is not as it is written: `__x` is stored as `_Class__x`.
    """
    own = vars(cls) if "__slots__" in vars(cls) else {}
    return [name for name, x in own.items() if isinstance(x, types.MemberDescriptorType)]


class Attributes(MutableMapping[str, Any]):
    """Attributes of an object that are in no dictionary: those of a class, or in slots."""

    def __init__(self, owner: Any, names: Iterable[str] | None = None) -> None:
        self._owner = owner
        self._names = None if names is None else tuple(names)

    def __getitem__(self, name: str) -> Any:
        if self._names is None:
            return vars(self._owner)[name]
        try:
            return getattr(self._owner, name)
        except AttributeError:
            raise KeyError(name) from None

    def now(self) -> dict[str, Any]:
        """Return all attributes as a dict; for a class, faster than one by one."""
        return dict(vars(self._owner)) if self._names is None else dict(self)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._owner, name, value)

    def __delitem__(self, name: str) -> None:
        delattr(self._owner, name)

    def __iter__(self) -> Iterator[str]:
        if self._names is None:
            return iter([*vars(self._owner)])
        return (name for name in self._names if hasattr(self._owner, name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclasses.dataclass(frozen=True, eq=False)
class Holder:
    """A place that holds values.

    Attributes:
        holder: A cell of a closure, a mapping, a list, a deque, a set or a tuple.
        names: The keys of a mapping that count; None for all.
        called: The name that errors give it.
        is_raw: True for a dict whose class may have an `__iter__` or an `__setitem__` that means
            something else, as a module may.
    """

    holder: Any
    called: str = ""
    names: frozenset[str] | None = None
    is_raw: bool = False

    @property
    def is_fixed(self) -> bool:
        """True for a tuple, which holds the same objects forever."""
        return isinstance(self.holder, (tuple, frozenset))

    def contents(self) -> dict[Any, Any]:
        """Return its contents by key: an index in a list, an id in a set, None in a cell."""
        holder = self.holder
        if isinstance(holder, types.CellType):
            return {None: holder.cell_contents} if holder != EMPTY else {}
        if isinstance(holder, Attributes):
            return holder.now()
        if self.is_raw:
            return dict(dict.items(holder))
        if isinstance(holder, dict):
            keys = holder if self.names is None else self.names & holder.keys()
            return {key: holder[key] for key in keys}
        if isinstance(holder, set):
            return {id(x): x for x in holder}
        return dict(enumerate(holder))

    def restore(self, before: dict[Any, Any]) -> list[Any]:
        """Restore the contents `before`, in their order; return keys of values that had changed."""
        holder, now = self.holder, self.contents()
        if [*map(id, now.values())] == [*map(id, before.values())] and [*now] == [*before]:
            return []
        changed = [key for key, value in before.items() if now.get(key, _NONE) is not value]
        if isinstance(holder, list):
            holder[:] = before.values()
        elif isinstance(holder, (collections.deque, set)):
            holder.clear()
            (holder.extend if isinstance(holder, collections.deque) else holder.update)(
                before.values()
            )
        else:
            self._remove([key for key in now if key not in before])
            for key in changed:
                self.put(key, before[key])
            if isinstance(holder, dict) and self.names is None and [*holder] != [*before]:
                self._reorder(before)
        return changed

    def _reorder(self, before: dict[Any, Any]) -> None:
        """Put the keys of a dict into their order; a subclass may have an `update` of its own."""
        for key, value in before.items():
            if self.is_raw:
                self._remove([key])
            else:
                self.holder.pop(key)
            self.put(key, value)

    def put(self, key: Any, value: Any) -> None:
        """Store `value` at `key`."""
        if isinstance(self.holder, types.CellType):
            self.holder.cell_contents = value
        elif isinstance(self.holder, set):
            self.holder.add(value)
        elif isinstance(self.holder, (list, collections.deque)) and key >= len(self.holder):
            self.holder.append(value)  # it has become shorter
        elif self.is_raw:
            holder: Any = self.holder
            dict.__setitem__(holder, key, value)
        else:
            self.holder[key] = value

    def _remove(self, keys: list[Any]) -> None:
        for key in keys:
            if isinstance(self.holder, types.CellType):
                del self.holder.cell_contents
            elif self.is_raw:
                dict.__delitem__(self.holder, key)
            else:
                del self.holder[key]


EMPTY = types.CellType()
_NONE = object()
