"""The places of arrays and submodules in a module of MLX."""

from collections.abc import Iterator
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
