"""The check that a function is not made of a module, whose parameters would be constants."""

import functools
import types
from collections.abc import Iterator
from typing import Any

from bridge import _registry
from bridge._calls.wrong_framework import Direction
from bridge._core import import_path
from bridge._core.errors import ArgumentError
from bridge._core.protocols import Source

_MOST = 100


def check_no_parameters(fn: Any, direction: Direction) -> None:
    """Raise if `fn` is made of a module, such as one of its methods or a partial function of it."""
    source = _registry.source(direction.source)
    module = next(
        (part for part in _function_parts(fn, source) if source.holds_parameters(part)), None
    )
    if module is None:
        return
    kind = type(module).__name__
    name = import_path.function_name(fn)
    constants = "an object with parameters, which would be constants without a gradient"
    if source.is_module(module):
        raise ArgumentError(
            f"{direction} expects a function or a module, but got {name}, a method of {kind}: "
            f"{constants}. Pass the module, `{direction}(module)`, whose `apply(params, buffers, "
            "x)` calls it. Where constants are meant, write a function that says so: `lambda x: "
            "method(x)`."
        )
    got = kind if module is fn else f"{name}, which is made of {kind}"
    raise ArgumentError(
        f"{direction} expects a function, but got {got}: {constants}. Pass it as an argument, "
        f"`{direction}(lambda module, x: module(x))`, called with "
        f"`bridge.to_{direction.target}(module)`. Where constants are meant, write a function that "
        "says so: `lambda x: module(x)`."
    )


def _function_parts(fn: Any, source: Source) -> Iterator[Any]:
    """Yield `fn` and the parts of partial functions, methods and wrapped functions in it.

    A module among the arguments of a partial function need not be called with its own parameters:
    `torch.func.functional_call` calls it with others.
    """
    parts = [fn]
    for part in parts:
        yield part
        if len(parts) > _MOST:  # a function may wrap itself
            return
        if isinstance(part, functools.partial):
            arguments = [*part.args, *part.keywords.values()]
            parts += [part.func, *(x for x in arguments if not source.is_module(x))]
        elif isinstance(part, types.MethodType):
            parts.append(part.__self__)
        wrapped = getattr(part, "__wrapped__", None)
        if wrapped is not None:
            parts.append(wrapped)
