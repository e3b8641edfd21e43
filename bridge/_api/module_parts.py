"""Functions that are made of a module, whose parameters would be constants."""

import functools
import types
from collections.abc import Iterator
from typing import Any

from bridge import _registry
from bridge._calls.wrong_framework import Direction
from bridge._core import import_path
from bridge._core.errors import ArgumentError

_MOST = 100


def check_no_parameters(fn: Any, crossing: Direction) -> None:
    """Raise for a method of a module, and for what else is one in another form."""
    source = _registry.source(crossing.source)
    module = next((part for part in _parts(fn) if source.holds_parameters(part)), None)
    if module is None:
        return
    kind = type(module).__name__
    got = kind if module is fn else f"{import_path.function_name(fn)}, which is made of {kind}"
    raise ArgumentError(
        f"{crossing} expects a function, but got {got}: an object with parameters, which would be "
        f"constants without a gradient. Pass it as an argument, `{crossing}(lambda module, x: "
        f"module(x))`, called with `bridge.to_{crossing.target}(module)`. Where constants are "
        "meant, write a function that says so: `lambda x: module(x)`."
    )


def _parts(fn: Any) -> Iterator[Any]:
    """`fn` and what it surely calls: of partial functions, methods and transformed functions."""
    found = [fn]
    for part in found:
        yield part
        if len(found) > _MOST:  # a function may wrap itself
            return
        if isinstance(part, functools.partial):
            found += [part.func, *part.args, *part.keywords.values()]
        elif isinstance(part, types.MethodType):
            found.append(part.__self__)
        wrapped = getattr(part, "__wrapped__", None)
        if wrapped is not None:
            found.append(wrapped)
