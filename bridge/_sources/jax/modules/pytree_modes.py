"""The modes of the parts of a callable pytree, such as a module of Equinox."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from bridge._core.call_words import TRAINING, WORDS
from bridge._core.errors import ArgumentError
from bridge._sources.jax.modules.leaves import dotted_name


@dataclasses.dataclass(frozen=True)
class Flag:
    """An attribute that is a mode, such as `inference` of Equinox.

    Attributes:
        part: The name of the part that has it.
        word: The name of the attribute.
        value: Its value.
        position: Its position among the leaves, or None for a static field.
    """

    part: str
    word: str
    value: bool
    position: int | None

    @property
    def training(self) -> bool:
        """The mode."""
        return self.value == (self.word in TRAINING)


def find_flags(module: Any) -> list[Flag]:
    """Return the attributes of a module and its parts that are modes, leaves first."""
    nodes: list[tuple[Any, Any]] = []

    def visit(path: Any, node: Any) -> bool:
        nodes.append((path, node))
        return False

    pairs, _ = jax.tree_util.tree_flatten_with_path(module, is_leaf=visit, is_leaf_takes_path=True)
    leaves = [
        Flag(dotted_name(path[:-1]), word, leaf, i)
        for i, (path, leaf) in enumerate(pairs)
        if isinstance(leaf, bool) and (word := dotted_name(path[-1:])) in WORDS
    ]
    known = {(flag.part, flag.word) for flag in leaves}
    static = [flag for path, node in nodes for flag in _own_flags(dotted_name(path), node)]
    return leaves + [flag for flag in static if (flag.part, flag.word) not in known]


def _own_flags(part: str, node: Any) -> Iterator[Flag]:
    attributes = getattr(node, "__dict__", {})
    for word in WORDS:
        if isinstance(attributes.get(word), bool):
            yield Flag(part, word, attributes[word], None)


def read_modes(flags: Iterable[Flag]) -> dict[str, bool]:
    """Return the modes of parts, the whole first, which is in training if a part is.

    Without any, the whole is in training.
    """
    modes: dict[str, bool] = {}
    for flag in sorted(flags, key=lambda flag: flag.part.count(".") + bool(flag.part)):
        modes[flag.part] = modes.get(flag.part, False) or flag.training
    return {"": modes.get("", any(modes.values()) or not modes), **modes}


def changed_leaves(
    module: str, flags: Iterable[Flag], before: dict[str, bool], modes: Iterable[bool]
) -> dict[int, bool]:
    """Return new leaves by their positions, for parts that are in another mode than before."""
    now = dict(zip(before, modes, strict=True))
    leaves: dict[int, bool] = {}
    for flag in flags:
        if now[flag.part] == before[flag.part]:
            continue
        if flag.position is None:
            raise ArgumentError(
                f"{f'part {flag.part} of ' if flag.part else ''}{module} has its mode, "
                f"{flag.word}={flag.value}, in a static field, which train() and eval() cannot "
                "set. Make it a field like others, or wrap a module that was made with the other."
            )
        leaves[flag.position] = now[flag.part] == (flag.word in TRAINING)
    return leaves
