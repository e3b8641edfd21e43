"""The modes that modules of Flax linen have as attributes, and not as arguments of a call."""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from bridge._core.call_words import EVALUATION, TRAINING
from bridge._sources.jax.modules.leaves import dotted_name


def is_linen_module(x: Any) -> bool:
    """Return True for a module of Flax linen."""
    linen = sys.modules.get("flax.linen")
    return linen is not None and isinstance(x, linen.Module)


def read_modes(module: Any) -> dict[str, bool]:
    """Return the modes of parts with such attributes; the whole, first, is in training if one is.

    Where there are none, the mode is an argument of the call alone.
    """
    modes = {
        name: any(value == (flag in TRAINING) for flag, value in flags.items())
        for name, part in _find_parts(module, ())
        if (flags := _flags(part))
    }
    return {"": modes.get("", any(modes.values()) or not modes), **modes}


def with_modes(module: Any, before: dict[str, bool], modes: Iterable[bool]) -> Any:
    """Return the module with attributes for these modes in place of those before."""
    parts = [*_find_parts(module, ())]
    names = {id(part): name for name, part in reversed(parts)}
    changed = {n: x for (n, old), x in zip(before.items(), modes, strict=True) if x != old}
    copies: dict[int, Any] = {}  # by the module, which may be there twice to share its variables

    def copy(part: Any) -> Any:
        if id(part) not in copies:
            training = changed.get(names[id(part)])
            flags = () if training is None else _flags(part)
            updates = {flag: training if flag in TRAINING else not training for flag in flags}
            for field, value in _fields_with_modules(part):
                updates[field] = jax.tree.map(lambda x: copy(x) if is_linen_module(x) else x, value)
            copies[id(part)] = part.clone(**updates)
        return copies[id(part)]

    return copy(module) if changed else module


def attribute_words(module: Any) -> list[str]:
    """Return the words for modes that the module has as attributes, and takes in no call again."""
    return [*_flags(module)]


def _find_parts(module: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield the module and those within it, with the names that their variables have."""
    yield ".".join(path), module
    for field, value in _fields_with_modules(module):
        for inner, child in jax.tree_util.tree_flatten_with_path(value)[0]:
            if is_linen_module(child):
                name = "_".join([field, *dotted_name(inner).split(".")] if inner else [field])
                yield from _find_parts(child, (*path, child.name or name))


def _fields_with_modules(module: Any) -> list[tuple[str, Any]]:
    """Return the fields that are modules, or containers of such."""
    names = [field.name for field in dataclasses.fields(module) if field.name != "parent"]
    pairs = [(name, getattr(module, name, None)) for name in names]
    return [(name, x) for name, x in pairs if any(map(is_linen_module, jax.tree.leaves(x)))]


def _flags(module: Any) -> dict[str, bool]:
    """Return the attributes by which a module has a mode."""
    names = {field.name for field in dataclasses.fields(module)}
    values = {name: getattr(module, name) for name in (*TRAINING, *EVALUATION) if name in names}
    return {name: x for name, x in values.items() if isinstance(x, bool)}
