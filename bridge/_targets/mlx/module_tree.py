"""Trees of groups and arrays, as `mlx.nn.Module` names them.

NOTE [numbered groups]
MLX reads names such as `layers.0.weight` as those of a list, when weights or the state of an
optimizer are loaded. So a group whose members are numbered is a list, in which what is missing is
an empty group. A whole module cannot be a list; it takes numbers as if it were one. Unlike the
lists of MLX, a numbered group has a mode, since a module of torch or JAX may stand behind it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from bridge._arrays.mlx.upstream.modules import PublicName
from bridge._core.errors import ArgumentError

Path = tuple[str | int, ...]
_Tree = dict[str, Any]
_MOST_GAPS = 1000


class Group(nn.Module):
    """Arrays and groups whose names begin alike."""

    def _set_training_mode(self, mode: bool) -> None:  # noqa: FBT001, as MLX calls it
        super()._set_training_mode(mode)
        _set_modes(self.values(), mode=mode)

    def _extra_repr(self) -> str:
        arrays = {name: x for name, x in self.items() if isinstance(x, mx.array)}
        return ", ".join(f"{name}={list(x.shape)}" for name, x in arrays.items())


class NumberedGroup(list[Any]):
    """Arrays and groups whose names are numbers: NOTE [numbered groups]."""

    training = True

    def train(self, mode: bool = True) -> "NumberedGroup":  # noqa: FBT001, FBT002, as in MLX
        """Set the group and all in it in or out of training."""
        self.training = mode
        for member in self:
            if isinstance(member, (nn.Module, NumberedGroup)):
                member.train(mode)
        return self

    def eval(self) -> "NumberedGroup":
        """Set the group and all in it out of training."""
        return self.train(mode=False)


def _set_modes(members: Iterable[Any], *, mode: bool) -> None:
    """Set the modes of numbered groups; MLX itself sets those of modules."""
    for member in members:
        if isinstance(member, NumberedGroup):
            member.training = mode
            _set_modes(member, mode=mode)


class NumberedModule(Group):
    """A group whose members are numbered, and which cannot be a list."""

    def __getitem__(self, key: str | int) -> Any:
        return super().__getitem__(str(key) if isinstance(key, int) else key)

    def __setitem__(self, key: str | int, value: Any) -> None:
        super().__setitem__(str(key) if isinstance(key, int) else key, value)


def grow(
    root: nn.Module,
    arrays: Mapping[str, mx.array],
    groups: Iterable[str],
    *,
    hidden: Iterable[str],
    name: str,
) -> tuple[dict[str, Path], list[Path]]:
    """Write arrays into a module by their names; return the paths of arrays and of groups.

    The `hidden` ones get `_` before their names, by which MLX passes over them.
    """
    tree: _Tree = {}
    hidden = {*hidden}
    segments = {key: _segments(key, hidden=key in hidden) for key in arrays}
    for key, x in arrays.items():
        *outer, leaf = segments[key]
        owner = _subtree(tree, outer, name, key)
        if leaf in owner:
            raise _duplicate_error(name, key)
        owner[leaf] = x
    group_segments = [_segments(group, hidden=False) if group else () for group in groups]
    for path in group_segments:
        _subtree(tree, path, name, ".".join(path))
    if _is_numbered(tree):
        tree = {str(i): tree.get(str(i), {}) for i in range(max(map(int, tree)) + 1)}
    for key, value in tree.items():
        dict.__setitem__(root, key, _make_node(key, value))
    paths = {key: _path(root, path) for key, path in segments.items()}
    return paths, [_path(root, path) for path in group_segments]


def _segments(name: str, *, hidden: bool) -> tuple[str, ...]:
    *outer, leaf = map(PublicName, name.split("."))
    return (*outer, f"_{leaf}" if hidden else leaf)


def _subtree(tree: _Tree, path: Iterable[str], name: str, whole: str) -> _Tree:
    for key in path:
        subtree = tree.setdefault(key, {})
        if not isinstance(subtree, dict):
            raise _duplicate_error(name, whole)
        tree = subtree
    return tree


def _duplicate_error(name: str, key: str) -> ArgumentError:
    return ArgumentError(
        f"{name} has two arrays or groups that MLX would call {key!r}. Rename one of them."
    )


def _make_node(name: str, tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if not _is_numbered(tree):
        group = Group()
        for key, value in tree.items():
            dict.__setitem__(group, key, _make_node(key, value))
        return group
    members = [_make_node(name, tree.get(str(i), {})) for i in range(max(map(int, tree)) + 1)]
    if name[:1] != "_":
        return NumberedGroup(members)
    group = NumberedModule()  # MLX passes over the members of a list of such a name
    for i, member in enumerate(members):
        group[i] = member
    return group


def _is_numbered(tree: _Tree) -> bool:
    """Return True if the keys are the numbers of a list: NOTE [numbered groups]."""
    if not tree or not all(key.isdecimal() and str(int(key)) == key for key in tree):
        return False
    return max(map(int, tree)) < len(tree) + _MOST_GAPS


def _path(root: Any, segments: Iterable[str]) -> Path:
    node, keys = root, list[str | int]()
    for segment in segments:
        keys.append(_key(node, segment))
        node = node[keys[-1]]
    return tuple(keys)


def _key(node: Any, segment: str) -> str | int:
    return int(segment) if isinstance(node, NumberedGroup) else segment
