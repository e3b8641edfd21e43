"""The places of arrays and submodules in a module of MLX, and what a call changes there."""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from bridge._arrays.mlx.upstream.dot_graph import graph_text, is_same_node
from bridge._core.errors import ArgumentError

Path = tuple[str | int, ...]
Change = tuple[str, Any, Any]  # the name, the old value and the new one


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


class Contents:
    """All that a module holds besides the arrays at some paths, to see what becomes of it."""

    def __init__(self, module: nn.Module, paths: Iterable[Path]) -> None:
        self._contents = [*map(_Content, _containers(module, {}))]
        self._passed_over = {(id(at(module, path[:-1])), path[-1]) for path in paths}

    def edited(self) -> str | None:
        """Return the name of an array or a Python value that is another now, or None."""
        for content in self._contents:
            for key, old, new in content.differences():
                is_value = _is_plain(old) and _is_plain(new) and old != new
                is_edit = is_value or _holds_array(old) or _holds_array(new)
                if is_edit and (id(content.node), key) not in self._passed_over:
                    return str(key)
        return None


class Replacement:
    """Arrays in place of those that a module holds, which `restore` puts back.

    Args:
        module: The module.
        arrays: Arrays by their paths.
    """

    def __init__(self, module: nn.Module, arrays: Mapping[Path, mx.array]) -> None:
        self._arrays, self._is_checked = [*arrays.values()], False
        # New objects for the same arrays: `+=` in a call would write to those of the caller.
        self._own = [x[...] for x in self._arrays]
        owners = [(at(module, path[:-1]), path[-1]) for path in arrays]
        self._before = [(owner, key, at(owner, (key,))) for owner, key in owners]
        self._paths = dict[tuple[int, Any], Path]()
        for (owner, key, _), path, x in zip(self._before, arrays, self._own, strict=True):
            self._paths[id(owner), key] = path
            owner[key] = x
        self._contents = [*map(_Content, _containers(module, {}))]

    def changed(self) -> tuple[dict[Path, mx.array], list[str], list[Change]]:
        """Return the arrays that are others than those put in, and what else has changed.

        These are the names of other arrays, and changes of Python values, such as counters.
        """
        self._is_checked, own = True, self._written()
        others, values = list[str](), list[Change]()
        for content in self._contents:
            for key, old, new in content.differences():
                path = self._paths.get((id(content.node), key))
                if path is not None and isinstance(new, mx.array):
                    own[path] = new
                    continue
                content.is_restored = True
                if _holds_array(old) or _holds_array(new):
                    others.append(str(key))
                elif _is_plain(old) and _is_plain(new) and old != new:
                    values.append((str(key), old, new))
        return own, others, values

    def _written(self) -> dict[Path, mx.array]:
        """Return the arrays put in that were written to, as by `+=`."""
        if graph_text(*self._arrays) == graph_text(*self._arrays, *self._own):  # fast
            return {}
        triples = zip(self._paths.values(), self._arrays, self._own, strict=True)
        return {path: own for path, x, own in triples if not is_same_node(own, x)}

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
        members = dict(_members(self.node))
        if not isinstance(self.node, nn.Module):
            return _differences(self.members, members)
        attributes = vars(self.node)
        if _is_same(self._attributes, attributes):
            return _differences(self.members, members)
        # A value that becomes an array, or the reverse, moves between the two.
        before, now = {**self._attributes, **self.members}, {**attributes, **members}
        return [change for change in _differences(before, now) if change[0] != _MODE]

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


_MODE = "_training"  # which the caller sets back


def _is_same(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> bool:
    """Return True for the same keys and values in the same order; most often so, and fast."""
    same = len(before) == len(now) and all(map(operator.is_, before.values(), now.values()))
    return same and [*before] == [*now]


def _differences(before: Mapping[Any, Any], now: Mapping[Any, Any]) -> list[tuple[Any, Any, Any]]:
    if _is_same(before, now):
        return []
    changes = [(key, old, now.get(key)) for key, old in before.items() if now.get(key) is not old]
    return [*changes, *((key, None, x) for key, x in now.items() if key not in before)]


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


def _is_plain(x: Any) -> bool:
    """Return True for a value that a program may count or note with; others may be caches."""
    if isinstance(x, (dict, list, tuple, set, frozenset)):
        return all(map(_is_plain, x.values() if isinstance(x, dict) else x))
    return x is None or isinstance(x, (bool, int, float, complex, str, bytes))
