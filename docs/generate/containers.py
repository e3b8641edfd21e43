"""What becomes of each kind of container that is an argument and a result, by trying it."""

import collections
import dataclasses
from typing import Any, NamedTuple

import jax
import torch

import bridge
from generate.frameworks import DIRECTIONS, FRAMEWORKS, bridged, head, row


class Pair(NamedTuple):
    """A named tuple."""

    first: Any
    second: Any


@dataclasses.dataclass
class State:
    """A dataclass that is registered nowhere."""

    position: Any
    velocity: Any


@jax.tree_util.register_pytree_node_class
class InJax:
    """A node of JAX's pytrees."""

    def __init__(self, first: Any, second: Any) -> None:
        self.parts = (first, second)

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        """Return the leaves."""
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, _: None, parts: Any) -> "InJax":
        """Return the node of these leaves."""
        return cls(*parts)


class InTorch:
    """A node of torch's pytrees."""

    def __init__(self, first: Any, second: Any) -> None:
        self.parts = (first, second)


torch.utils._pytree.register_pytree_node(
    InTorch, lambda node: (list(node.parts), None), lambda parts, _: InTorch(*parts)
)

CONTAINERS = {
    "`list`": lambda a, b: [a, b],
    "`tuple`": lambda a, b: (a, b),
    "`dict`": lambda a, b: {"x": a, "y": b},
    "`OrderedDict`": lambda a, b: collections.OrderedDict(x=a, y=b),
    "`defaultdict`": lambda a, b: collections.defaultdict(int, x=a, y=b),
    "`deque`": lambda a, b: collections.deque([a, b]),
    "`NamedTuple`": Pair,
    "dataclass": State,
    "node of `jax.tree_util`": InJax,
    "node of torch's pytree": InTorch,
    "`None` beside an array": lambda a, b: (a, None),
}


def _verdict(source: str, target: str, kind: str) -> str:
    array = FRAMEWORKS[target].array
    container = CONTAINERS[kind](array([1.0]), array([2.0, 3.0]))
    try:
        returned = bridged(source, target, lambda tree: tree)(container)
    except bridge.BridgeError as error:
        return f"`{type(error).__name__}`"
    return "kept" if type(returned) is type(container) else f"`{type(returned).__name__}`"


def table() -> str:
    """A row for each container, a column for each direction."""
    text = head("container", *(f"`{source}2{target}`" for source, target in DIRECTIONS))
    for kind in CONTAINERS:
        text += row(kind, *(_verdict(source, target, kind) for source, target in DIRECTIONS))
    return text
