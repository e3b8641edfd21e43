"""The places of arrays and submodules in a module of MLX, and what a call changes there."""

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from bridge._core.errors import ArgumentError

Path = tuple[str | int, ...]


def array_paths(module: nn.Module) -> dict[str, Path]:
    """Return the paths of the parameters of `module` by their names, frozen ones too.

    MLX lists what is in a shared submodule under each of its names. Here it has the first.
    """
    names = dict(tree_flatten(module.parameters()))
    paths = {dotted(path): path for path in _walk(module, (), set()) if path}
    return {name: path for name, path in paths.items() if name in names}


def part_paths(module: nn.Module) -> list[Path]:
    """Return the paths of all modules in `module`, each once, after those that it is in."""
    paths, inner_first = dict[int, Path](), list[Path]()

    def visit(node: Any, path: Path) -> None:
        if id(node) in paths:
            return
        paths[id(node)] = path
        for key, member in _members(node):
            if isinstance(member, (dict, list)):
                visit(member, (*path, key))
        if isinstance(node, nn.Module):
            inner_first.append(path)

    visit(module, ())
    return inner_first[::-1]


def _walk(node: Any, path: Path, seen: set[int]) -> Iterator[Path]:
    """Yield the paths of the arrays in a container, in order; each container counts once."""
    if isinstance(node, mx.array):
        yield path
        return
    if id(node) in seen:
        return
    seen.add(id(node))
    for key, member in _members(node):
        if not (isinstance(node, nn.Module) and str(key).startswith("_")):
            yield from _walk(member, (*path, key), seen)


def _members(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, dict):
        return [*node.items()]
    return [*enumerate(node)] if isinstance(node, list) else []


def dotted(path: Path) -> str:
    """Return the name that MLX has for what is at `path`."""
    return ".".join(map(str, path))


def at(module: Any, path: Path) -> Any:
    """Return what is at `path` in `module`; raise if it has been taken away."""
    node = module
    try:
        for key in path:
            node = node[key]
    except (KeyError, IndexError, TypeError):
        raise ArgumentError(
            f"{type(module).__name__} has no {dotted(path)!r} any more. Wrap it again after you "
            "have changed its parts."
        ) from None
    return node


class Replacement:
    """Arrays in place of those that a module holds, which `restore` puts back.

    Args:
        module: The module.
        arrays: Arrays by their paths.
    """

    def __init__(self, module: nn.Module, arrays: Mapping[Path, mx.array]) -> None:
        self._contents, self._is_checked = [*map(_Content, _containers(module, {}))], False
        self._put_in = dict[tuple[int, Any], tuple[Path, mx.array]]()
        self._before = [(at(module, path[:-1]), path[-1], at(module, path)) for path in arrays]
        for (owner, key, _), (path, x) in zip(self._before, arrays.items(), strict=True):
            self._put_in[id(owner), key] = path, x
            owner[key] = x

    def changed(self) -> tuple[dict[Path, mx.array], list[str]]:
        """Return the arrays that are others than those put in, and the names of other changes."""
        self._is_checked, own, others = True, dict[Path, mx.array](), list[str]()
        for content in self._contents:
            for key, old, new in content.differences():
                path, put_in = self._put_in.get((id(content.node), key), (None, None))
                if path is not None and isinstance(new, mx.array):
                    own |= {} if new is put_in else {path: new}
                elif _holds_array(old) or _holds_array(new):
                    others.append(str(key))
                    content.is_restored = True
        return own, others

    def restore(self) -> None:
        """Let the module hold the arrays that it has held."""
        if not self._is_checked:
            self.changed()  # which notes what has to be restored
        for content in self._contents:  # first, since a list may have lost what it has held
            if content.is_restored:
                content.restore()
        for owner, key, x in self._before:
            owner[key] = x


class _Content:
    """What a container holds, by key or index; of a module, also its attributes."""

    def __init__(self, node: Any) -> None:
        self.node, self.members, self.is_restored = node, dict(_members(node)), False
        self._attributes = dict(vars(node)) if isinstance(node, nn.Module) else {}

    def differences(self) -> list[tuple[Any, Any, Any]]:
        """Return the keys at which it holds something else now, with what it held and holds."""
        now = dict(_members(self.node))
        keys = [*self.members, *(key for key in now if key not in self.members)]
        pairs = ((key, self.members.get(key), now.get(key)) for key in keys)
        return [(key, old, new) for key, old, new in pairs if old is not new]

    def restore(self) -> None:
        """Let the container hold what it held."""
        if isinstance(self.node, list):
            self.node[:] = self.members.values()
            return
        dict.clear(self.node)
        dict.update(self.node, self.members)
        if isinstance(self.node, nn.Module):
            vars(self.node).clear()
            vars(self.node).update(self._attributes)


def _containers(node: Any, seen: dict[int, Any]) -> list[Any]:
    """Return the modules, dicts and lists in `node`, each once."""
    if isinstance(node, (dict, list)) and id(node) not in seen:
        seen[id(node)] = node
        for _, member in _members(node):
            _containers(member, seen)
    return [*seen.values()]


def _holds_array(x: Any) -> bool:
    if isinstance(x, (dict, list, tuple)):
        return any(map(_holds_array, x.values() if isinstance(x, dict) else x))
    return isinstance(x, mx.array)
