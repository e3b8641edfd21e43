"""The check that a function is not made of a module, whose parameters would be constants."""

import functools
import types
from collections.abc import Iterator
from typing import Any

from bridge import _registry
from bridge._calls.wrong_framework import Direction
from bridge._core import import_path
from bridge._core.errors import ArgumentError

_MOST = 100


def check_no_parameters(fn: Any, direction: Direction) -> None:
    """Raise if `fn` is made of a module, such as one of its methods or a partial function of it."""
    source = _registry.source(direction.source)
    module = next((part for part in _parts(fn) if source.holds_parameters(part)), None)
    if module is None:
        return
    kind = type(module).__name__
    got = kind if module is fn else f"{import_path.function_name(fn)}, which is made of {kind}"
    raise ArgumentError(
        f"{direction} expects a function, but got {got}: an object with parameters, which would be "
        f"constants without a gradient. Pass it as an argument, `{direction}(lambda module, x: "
        f"module(x))`, called with `bridge.to_{direction.target}(module)`. Where constants are "
        "meant, write a function that says so: `lambda x: module(x)`."
    )


def _parts(fn: Any) -> Iterator[Any]:
    """Yield `fn` and the parts of partial functions, methods and wrapped functions in it."""
    parts = [fn]
    for part in parts:
        yield part
        if len(parts) > _MOST:  # a function may wrap itself
            return
        if isinstance(part, functools.partial):
            parts += [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, types.MethodType):
            parts.append(part.__self__)
        wrapped = getattr(part, "__wrapped__", None)
        if wrapped is not None:
            parts.append(wrapped)
