"""Trees of arguments as text that means the same in another process, and runs no code there."""

import collections
import dataclasses
import enum
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec

# By class what a value is called in the text, what stands for it there, and how it is made of that.
Kinds = Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]


class Held:
    """A leaf; no dataclass, so that it stays one."""

    def __init__(self, value: Any) -> None:
        self.value = value


def encoded(tree: Any, kinds: Kinds = {}) -> str:  # noqa: B006 - nobody writes to it
    """A tree as text, whose leaves are in `Held`.

    Only what JSON has, its usual relatives and `kinds` are taken: text comes from anywhere, and
    pickles can run code.
    """
    return json.dumps(_plain(tree, kinds), separators=(",", ":"))


def decoded(text: str, kinds: Kinds = {}) -> Any:  # noqa: B006
    """The tree that `text` was made of."""
    return _built(json.loads(text), {name: build for name, _, build in kinds.values()})


def _plain(x: Any, kinds: Kinds) -> Any:
    if x is None or type(x) in (bool, int, str):
        return x
    inner = lambda items: [_plain(item, kinds) for item in items]
    if type(x) in kinds:
        kind, plain, _ = kinds[type(x)]
        return {kind: plain(x)}
    if type(x) in _PLAIN:
        kind, plain = _PLAIN[type(x)]
        return {kind: plain(x, inner)}
    return _of_class(x, inner)


def _of_class(x: Any, inner: Callable[[Any], list[Any]]) -> dict[str, Any]:
    """An object of a class that can be imported: its place, and what the object is made of."""
    kind = type(x)
    place = import_path.place(kind)
    if place is not None and isinstance(x, enum.Enum):
        return {"enum": [place, x.name]}
    if place is not None and isinstance(x, tuple) and hasattr(kind, "_fields"):
        return {"named": [place, inner(x)]}
    if place is not None and dataclasses.is_dataclass(x):
        held = pytree.attributes(x)
        return {"dataclass": [place, list(held), inner(held.values())]}
    raise ArgumentError(f"a {kind.__name__} among its arguments has no text to find it again by")


Inner = Callable[[Any], list[Any]]
_PLAIN: dict[type, tuple[str, Callable[[Any, Inner], Any]]] = {
    list: ("list", lambda x, inner: inner(x)),
    tuple: ("tuple", lambda x, inner: inner(x)),
    dict: ("dict", lambda x, inner: [inner(pair) for pair in x.items()]),
    collections.OrderedDict: ("ordered", lambda x, inner: [inner(pair) for pair in x.items()]),
    float: ("float", lambda x, _: repr(x)),
    complex: ("complex", lambda x, _: repr(x)),
    ArraySpec: ("array", lambda x, _: [x.shape, x.dtype, x.device, x.weak]),
    Held: ("leaf", lambda x, inner: inner([x.value])),
}


def _built(x: Any, builders: Mapping[str, Callable[[Any], Any]]) -> Any:
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind in builders:
        return builders[kind](value)
    return _BUILDERS[kind](value, lambda items: [_built(item, builders) for item in items])


def _array(about: Sequence[Any]) -> ArraySpec:
    shape, dtype, device, weak = about
    return ArraySpec(tuple(shape), dtype, device, weak)


def _class(place: str, is_one: Callable[[type], bool]) -> Any:
    found = import_path.find(place)
    if not (isinstance(found, type) and is_one(found)):
        raise ArgumentError(f"{place} is not the class that it was when this text was made.")
    return found


def _enum(about: Sequence[Any], _: Inner) -> Any:
    return _class(about[0], lambda kind: issubclass(kind, enum.Enum))[about[1]]


def _named(about: Sequence[Any], inner: Inner) -> Any:
    is_one = lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields")
    return tuple.__new__(_class(about[0], is_one), inner(about[1]))


def _dataclass(about: Sequence[Any], inner: Inner) -> Any:
    place, names, values = about
    return pytree.instance(_class(place, dataclasses.is_dataclass), names, inner(values))


_BUILDERS: dict[str, Callable[[Any, Inner], Any]] = {
    "list": lambda items, inner: inner(items),
    "tuple": lambda items, inner: tuple(inner(items)),
    "dict": lambda items, inner: dict(map(inner, items)),
    "ordered": lambda items, inner: collections.OrderedDict(map(inner, items)),
    "float": lambda text, _: float(text),
    "complex": lambda text, _: complex(text),
    "array": lambda about, _: _array(about),
    "leaf": lambda value, inner: Held(*inner(value)),
    "enum": _enum,
    "named": _named,
    "dataclass": _dataclass,
}
