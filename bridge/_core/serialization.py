"""Pytrees of arguments as text that means the same in another process and runs no code there."""

import collections
import dataclasses
import enum
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec

# By class: the tag of its values in the text, and the functions to JSON and back.
Kinds = Mapping[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]


class Leaf:
    """A leaf of a pytree. It is no dataclass, which would be a node."""

    def __init__(self, value: Any) -> None:
        self.value = value


def encode(tree: Any, kinds: Kinds = {}) -> str:  # noqa: B006 - nobody writes to it
    """Return a pytree of `Leaf` objects as text.

    It holds only what JSON has, some other built-in classes and `kinds`: text can come from
    anywhere, and a pickle could run code.
    """
    return json.dumps(_to_json(tree, kinds), separators=(",", ":"))


def decode(text: str, kinds: Kinds = {}) -> Any:  # noqa: B006
    """Return the pytree that `encode` made the text of."""
    return _from_json(json.loads(text), {name: build for name, _, build in kinds.values()})


def _to_json(x: Any, kinds: Kinds) -> Any:
    if x is None or type(x) in (bool, int, str):
        return x
    inner = lambda items: [_to_json(item, kinds) for item in items]
    if type(x) in kinds:
        kind, plain, _ = kinds[type(x)]
        return {kind: plain(x)}
    if type(x) in _PLAIN:
        kind, plain = _PLAIN[type(x)]
        return {kind: plain(x, inner)}
    return _encode_class(x, inner)


def _encode_class(x: Any, inner: Callable[[Any], list[Any]]) -> dict[str, Any]:
    """Encode an object of an importable class as its import path and its parts."""
    kind = type(x)
    path = import_path.import_path(kind)
    if path is not None and isinstance(x, enum.Enum):
        return {"enum": [path, x.name]}
    if path is not None and isinstance(x, tuple) and hasattr(kind, "_fields"):
        return {"named": [path, inner(x)]}
    if path is not None and dataclasses.is_dataclass(x):
        attributes = pytree.attributes(x)
        return {"dataclass": [path, list(attributes), inner(attributes.values())]}
    raise ArgumentError(f"a {kind.__name__} among its arguments has no text to find it again by")


Inner = Callable[[Any], list[Any]]
_PLAIN: dict[type, tuple[str, Callable[[Any, Inner], Any]]] = {
    list: ("list", lambda x, inner: inner(x)),
    tuple: ("tuple", lambda x, inner: inner(x)),
    dict: ("dict", lambda x, inner: [inner(pair) for pair in x.items()]),
    collections.OrderedDict: ("ordered", lambda x, inner: [inner(pair) for pair in x.items()]),
    float: ("float", lambda x, _: repr(x)),
    complex: ("complex", lambda x, _: repr(x)),
    ArraySpec: ("array", lambda x, _: [x.shape, x.dtype, x.device, x.weak_type]),
    Leaf: ("leaf", lambda x, inner: inner([x.value])),
}


def _from_json(x: Any, builders: Mapping[str, Callable[[Any], Any]]) -> Any:
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind in builders:
        return builders[kind](value)
    return _BUILDERS[kind](value, lambda items: [_from_json(item, builders) for item in items])


def _decode_spec(parts: Sequence[Any]) -> ArraySpec:
    shape, dtype, device, weak_type = parts
    return ArraySpec(tuple(shape), dtype, device, weak_type)


def _import_class(path: str, is_expected: Callable[[type], bool]) -> Any:
    kind = import_path.import_object(path)
    if not (isinstance(kind, type) and is_expected(kind)):
        raise ArgumentError(f"{path} is not the class that it was when this text was made.")
    return kind


def _decode_enum(parts: Sequence[Any], _: Inner) -> Any:
    return _import_class(parts[0], lambda kind: issubclass(kind, enum.Enum))[parts[1]]


def _decode_named_tuple(parts: Sequence[Any], inner: Inner) -> Any:
    is_named_tuple = lambda kind: issubclass(kind, tuple) and hasattr(kind, "_fields")
    return tuple.__new__(_import_class(parts[0], is_named_tuple), inner(parts[1]))


def _decode_dataclass(parts: Sequence[Any], inner: Inner) -> Any:
    path, names, values = parts
    return pytree.make_instance(_import_class(path, dataclasses.is_dataclass), names, inner(values))


_BUILDERS: dict[str, Callable[[Any, Inner], Any]] = {
    "list": lambda items, inner: inner(items),
    "tuple": lambda items, inner: tuple(inner(items)),
    "dict": lambda items, inner: dict(map(inner, items)),
    "ordered": lambda items, inner: collections.OrderedDict(map(inner, items)),
    "float": lambda text, _: float(text),
    "complex": lambda text, _: complex(text),
    "array": lambda parts, _: _decode_spec(parts),
    "leaf": lambda value, inner: Leaf(*inner(value)),
    "enum": _decode_enum,
    "named": _decode_named_tuple,
    "dataclass": _decode_dataclass,
}
