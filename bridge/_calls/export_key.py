"""What a function is planned for, as text that means the same in another process."""

from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.arguments import LeafHandler
from bridge._calls.plan import LeafInfo
from bridge._core import import_path, pytree, serialization
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec


def export_key(
    function: Callable[[], Any], ambient: str, structure: Any, leaves: Sequence[Any]
) -> tuple[str, str, str]:
    """Where a function is found, its settings, and arguments of this structure: an `ExportKey`."""
    found = function()
    place = found and import_path.import_path(found)
    if place is None:
        raise ArgumentError(
            "it cannot be imported. Wrap a function at the top of a module, and give what is "
            "wrapped the name of the function, as a decorator does"
        )
    return place, ambient, encode_arguments(structure, leaves)


def describe_leaves(leaves: Sequence[Any], labels: Sequence[str], away: str) -> list[LeafInfo]:
    """The leaves of which another process told."""
    specs = [leaf if isinstance(leaf, ArraySpec) else None for leaf in leaves]
    kind = LeafHandler(id, owner=away)
    return [LeafInfo(label, None, spec, kind) for label, spec in zip(labels, specs, strict=True)]


def encode_arguments(structure: Any, leaves: Sequence[Any]) -> str:
    """Arguments of this structure, whose `leaves` are values and, for arrays, their specs."""
    return serialization.encode(
        pytree.unflatten(structure, [serialization.Leaf(leaf) for leaf in leaves])
    )


def decode_arguments(text: str) -> tuple[list[Any], Any]:
    """The leaves and the structure that `text` was made of."""
    leaves, structure = pytree.flatten(serialization.decode(text), _registry.pytree_node)
    return [leaf.value for leaf in leaves], structure
