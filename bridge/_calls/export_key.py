"""What a function is planned for, as text that means the same in another process."""

from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.arguments import Kind
from bridge._calls.plan import Leaf
from bridge._core import import_path, pytree, serialization
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec


def origin(
    function: Callable[[], Any], ambient: str, structure: Any, leaves: Sequence[Any]
) -> tuple[str, str, str]:
    """Where a function is found, its settings, and arguments of this structure: an `Origin`."""
    found = function()
    place = found and import_path.place(found)
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


def encoded(structure: Any, leaves: Sequence[Any]) -> str:
    """Arguments of this structure, whose `leaves` are values and, for arrays, their specs."""
    return serialization.encoded(
        pytree.unflatten(structure, [serialization.Held(leaf) for leaf in leaves])
    )


def decoded(text: str) -> tuple[list[Any], Any]:
    """The leaves and the structure that `text` was made of."""
    leaves, structure = pytree.flatten(serialization.decoded(text), _registry.container)
    return [leaf.value for leaf in leaves], structure
