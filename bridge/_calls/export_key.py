"""A function and the arguments of a plan as text, which another process can read."""

from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.arguments import LeafHandler
from bridge._calls.plan import LeafInfo
from bridge._core import import_path, pytree, serialization
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec


def export_key(
    bridged: Callable[[], Any], trace_context: str, structure: Any, leaves: Sequence[Any]
) -> tuple[str, str, str]:
    """Return the import path of a bridged function, its trace context and arguments, as text.

    A partial function of this is an `ExportKey`. `leaves` are values and, for arrays, specs.
    """
    function = bridged()
    path = function and import_path.import_path(function)
    if path is None:
        raise ArgumentError(
            "it cannot be imported. Wrap a function at the top of a module, and give what is "
            "wrapped the name of the function, as a decorator does"
        )
    return path, trace_context, encode_arguments(structure, leaves)


def describe_leaves(leaves: Sequence[Any], labels: Sequence[str], target: str) -> list[LeafInfo]:
    """Describe leaves that another process has encoded."""
    specs = [leaf if isinstance(leaf, ArraySpec) else None for leaf in leaves]
    handler = LeafHandler(id, owner=target)
    return [LeafInfo(label, None, spec, handler) for label, spec in zip(labels, specs, strict=True)]


def encode_arguments(structure: Any, leaves: Sequence[Any]) -> str:
    """Return arguments as text; `leaves` are values and, for arrays, specs."""
    return serialization.encode(
        pytree.unflatten(structure, [serialization.Leaf(leaf) for leaf in leaves])
    )


def decode_arguments(text: str) -> tuple[list[Any], Any]:
    """Return the leaves and the structure that `encode_arguments` was given."""
    leaves, structure = pytree.flatten(serialization.decode(text), _registry.pytree_node_functions)
    return [leaf.value for leaf in leaves], structure
