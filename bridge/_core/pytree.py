"""Arguments and results as flat lists of leaves, and positions in them.

Flattening is optree's. Containers that only a framework knows (an Equinox module, a class
registered with torch's pytree) are registered in an optree namespace of our own when the first
of them is seen: NOTE [new containers].
"""

import collections
import contextlib
import dataclasses
import functools
import operator
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, cast

import optree

from bridge._core.errors import ArgumentError

NAMESPACE = "bridge"
# A function sees a dict as it was passed, in whatever order: two orders are two structures.
_settings = contextlib.ExitStack()
_settings.enter_context(optree.dict_insertion_ordered(True, namespace=NAMESPACE))  # noqa: FBT003

# NOTE [new containers]
# optree looks inside an instance only if its class was registered. They cannot all be registered
# beforehand: every Equinox module is a class of its own. So each class among the leaves is checked
# once. If it is a dataclass, or a node to a framework that is loaded, it is registered and the tree
# is flattened again. Otherwise it is remembered as the class of a leaf.
# The function that flattens an instance of a class, and the one that rebuilds it.
PytreeNodeFunctions = tuple[Callable[[Any], Any], Callable[[Any, Iterable[Any]], Any]]

# Weak, so that a class made in a function goes with it.
_leaves: weakref.WeakSet[type] = weakref.WeakSet()
_nodes_of_frameworks: weakref.WeakSet[type] = weakref.WeakSet()


def flatten(
    tree: Any,
    pytree_node_functions: Callable[[Any], PytreeNodeFunctions | None],
    leaf_classes: tuple[type, ...] = (),
) -> tuple[list[Any], Any]:
    """Return the leaves of `tree` and its structure.

    `pytree_node_functions` tells further nodes; objects of `leaf_classes` are leaves nevertheless.
    """
    is_leaf = (lambda x: isinstance(x, leaf_classes)) if leaf_classes else None
    while True:
        leaves, structure = optree.tree_flatten(tree, is_leaf, namespace=NAMESPACE)
        unknown = {leaf.__class__: leaf for leaf in leaves if leaf.__class__ not in _leaves}
        for kind in [kind for kind in unknown if issubclass(kind, leaf_classes)]:
            del unknown[kind]
        registered = [
            _register(kind, leaf, pytree_node_functions) for kind, leaf in unknown.items()
        ]
        if not any(registered):
            return leaves, structure


def flatten_known(tree: Any) -> tuple[list[Any], Any]:
    """Flatten a tree whose containers are all registered."""
    return optree.tree_flatten(tree, namespace=NAMESPACE)


def children(tree: Any) -> dict[Any, Any] | None:
    """Return the parts of a known container, by key or index; None for a leaf, as None is."""
    try:
        parts, _, entries, _ = optree.tree_flatten_one_level(
            tree, none_is_leaf=True, namespace=NAMESPACE
        )
    except ValueError:
        return None
    return dict(zip(entries, parts, strict=True))


LEAF = flatten_known(0)[1]


@functools.cache
def args_structure(count: int) -> Any:
    """Return the structure of a call with this many positional arguments, each a leaf."""
    return flatten_known((tuple(range(count)), {}))[1]


@contextlib.contextmanager
def forgetting_refused(x: Any) -> Generator[None]:
    """Let the class of `x`, if it is refused here, be looked at again: users may register it."""
    try:
        yield
    except ArgumentError:
        _leaves.discard(type(x))
        raise


def _register(
    kind: type, leaf: Any, pytree_node_functions: Callable[[Any], PytreeNodeFunctions | None]
) -> bool:
    functions = pytree_node_functions(leaf)
    if functions is not None:
        _nodes_of_frameworks.add(kind)
    elif dataclasses.is_dataclass(kind):
        functions = _dataclass(kind)
    if functions is None:
        _leaves.add(kind)
        return False
    with contextlib.suppress(ValueError):  # another thread has registered the class
        optree.register_pytree_node(cast(Any, kind), *functions, namespace=NAMESPACE)
    return True


def _dataclass(kind: type) -> PytreeNodeFunctions:
    """Return how to flatten a dataclass, and how to rebuild it without its constructor.

    `__init__` and `__post_init__` may check or convert values, which tracers do not survive.
    """

    def take(node: Any) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[str, ...]]:
        values = attributes(node)
        return tuple(values.values()), tuple(values), tuple(values)

    def build(names: tuple[str, ...], children: Iterable[Any]) -> Any:
        return make_instance(kind, names, children)

    return take, build


def attributes(x: Any) -> dict[str, Any]:
    """Return the fields of a dataclass and the attributes that were set beside them."""
    fields = [field.name for field in dataclasses.fields(x)] if dataclasses.is_dataclass(x) else []
    others = [name for name in getattr(x, "__dict__", {}) if name not in fields]
    names = [*(field for field in fields if hasattr(x, field)), *others]
    return {name: getattr(x, name) for name in names}


def make_instance(kind: type, names: Iterable[str], values: Iterable[Any]) -> Any:
    """Make an object of this class with these attributes, without its constructor."""
    instance = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(instance, name, value)
    return instance


def unflatten(structure: Any, values: Iterable[Any]) -> Any:
    """Return the tree of this `structure` with `values` as its leaves."""
    return structure.unflatten(values)


def unflattener(structure: Any) -> Callable[[Sequence[Any]], Any]:
    """Return `unflatten` for one structure; a leaf or a tuple of leaves does without optree."""
    count = structure.num_leaves
    if structure == LEAF:
        return operator.itemgetter(0)
    return tuple if structure == flatten_known((0,) * count)[1] else structure.unflatten


def replace_structseqs(structure: Any) -> Any:
    """Return `structure` with a named tuple of the same names for each struct sequence.

    That is a class written in C, as those of `torch.max` or `time.localtime`, which looks like a
    named tuple and is a leaf to frameworks other than its own.
    """
    if not any(map(optree.is_structseq_class, node_types(structure))):
        return structure
    return optree.treespec_transform(structure, _structseq_to_namedtuple)


def node_types(structure: Any) -> set[type]:
    """Return the classes of the containers in a structure."""
    inner = (node_types(child) for child in structure.children())
    return set[type]().union(*inner) | ({structure.type} if structure.type else set())


def is_named_tuple_with_own_new(kind: type) -> bool:
    """Return True for a named tuple with a constructor of its own, which may look at fields."""
    held = vars(kind)
    return optree.is_namedtuple_class(kind) and "__new__" in held and "_fields" not in held


def has_code_of_its_own(kind: type) -> bool:
    """Return True for a container that is rebuilt by code of its class."""
    return kind in _nodes_of_frameworks or is_named_tuple_with_own_new(kind)


def _structseq_to_namedtuple(node: Any) -> Any:
    if node.type is None or not optree.is_structseq_class(node.type):
        return node
    fields = optree.structseq_fields(node.type)
    return flatten_known(_named_tuple(node.type.__name__, fields, range(len(fields))))[1]


@functools.cache
def _named_tuple_class(name: str, fields: tuple[str, ...]) -> Any:
    kind: Any = collections.namedtuple(name, fields)  # pyright: ignore[reportUntypedNamedTuple]
    # It is in no module, so a pickle holds what it is made of.
    kind.__reduce__ = lambda self: (_named_tuple, (name, fields, tuple(self)))
    return kind


def _named_tuple(name: str, fields: tuple[str, ...], values: Iterable[Any]) -> Any:
    return _named_tuple_class(name, fields)(*values)


def paths(structure: Any) -> list[tuple[Any, ...]]:
    """Return, for each leaf, the keys and indices that lead to it."""
    return optree.treespec_paths(structure)


def scatter(values: Iterable[Any], positions: Sequence[int], base: Sequence[Any]) -> list[Any]:
    """Return a copy of `base` with `values` at `positions`."""
    copy = list(base)
    for i, value in zip(positions, values, strict=True):
        copy[i] = value
    return copy


def format_path(path: Sequence[Any]) -> str:
    """Return a path as a reader of code would write it: `x['weights'][0]`."""
    if not path:
        return "at the top"
    return str(path[0]) + "".join(f"[{key!r}]" for key in path[1:])
