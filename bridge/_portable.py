"""What a function is planned for, as text that means the same in another process."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _names, _tree
from bridge._arguments import Kind
from bridge._errors import ArgumentError
from bridge._plan import Leaf
from bridge._spec import ArraySpec


def origin(
    function: Callable[[], Any], ambient: str, structure: Any, leaves: Sequence[Any]
) -> tuple[str, str, str]:
    """Where a function is found, its settings, and arguments of this structure: an `Origin`."""
    found = function()
    place = found and _names.place(found)
    if place is None:
        raise ArgumentError(
            "it cannot be imported. Wrap a function at the top of a module, and give what is "
            "wrapped the name of the function, as a decorator does"
        )
    return place, ambient, encoded(structure, leaves)


def described(leaves: Sequence[Any], labels: Sequence[str], away: str) -> list[Leaf]:
    """The leaves of which another process told."""
    specs = [leaf if isinstance(leaf, ArraySpec) else None for leaf in leaves]
    kind = Kind(id, owner=away)
    return [Leaf(label, None, spec, kind) for label, spec in zip(labels, specs, strict=True)]


class _Held:
    """A leaf; no dataclass, so that it stays one."""

    def __init__(self, value: Any) -> None:
        self.value = value


def encoded(structure: Any, leaves: Sequence[Any]) -> str:
    """Arguments of this structure, whose `leaves` are values and, for arrays, their specs.

    Only what JSON has, tuples and complex numbers are taken: text comes from anywhere, and pickles
    can run code.
    """
    tree = _tree.unflatten(structure, [_Held(leaf) for leaf in leaves])
    return json.dumps(_plain(tree), separators=(",", ":"))


def decoded(text: str) -> tuple[list[Any], Any]:
    """The leaves and the structure that `text` was made of."""
    leaves, structure = _tree.leaves(_built(json.loads(text)))
    return [leaf.value for leaf in leaves], structure


def _plain(x: Any) -> Any:
    if x is None or type(x) in (bool, int, str):
        return x
    if type(x) not in _PLAIN:
        name = type(x).__name__
        raise ArgumentError(f"a {name} among its arguments has no text to find it again by")
    kind, plain = _PLAIN[type(x)]
    return {kind: plain(x)}


_PLAIN: dict[type, tuple[str, Callable[[Any], Any]]] = {
    list: ("list", lambda x: [*map(_plain, x)]),
    tuple: ("tuple", lambda x: [*map(_plain, x)]),
    dict: ("dict", lambda x: [[_plain(key), _plain(value)] for key, value in x.items()]),
    float: ("float", repr),
    complex: ("complex", repr),
    ArraySpec: ("array", lambda x: [x.shape, x.dtype, x.device, x.weak]),
    _Held: ("leaf", lambda x: _plain(x.value)),
}


def _built(x: Any) -> Any:
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    return _BUILDERS[kind](value)


def _array(about: Sequence[Any]) -> ArraySpec:
    shape, dtype, device, weak = about
    return ArraySpec(tuple(shape), dtype, device, weak)


_BUILDERS: dict[str, Callable[[Any], Any]] = {
    "list": lambda items: list(map(_built, items)),
    "tuple": lambda items: tuple(map(_built, items)),
    "dict": lambda items: {_built(key): _built(value) for key, value in items},
    "float": float,
    "complex": complex,
    "array": _array,
    "leaf": lambda value: _Held(_built(value)),
}
