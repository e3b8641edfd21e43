"""The check that a function is not made of a module, whose parameters would be constants."""

import functools
from collections.abc import Iterator
from typing import Any

from bridge import _registry
from bridge._calls.wrong_framework import Direction
from bridge._core import import_path
from bridge._core.errors import ArgumentError

_MOST = 100


def check_no_parameters(fn: Any, direction: Direction) -> None:
    """Raise if `fn` is made of a module, such as one of its methods or a partial function of it."""
    parts = [*_function_parts(fn, direction.source)]
    module = next((part for part in parts if _holds_parameters(part, direction.source)), None)
    if module is None:
        return
    kind, name = type(module).__name__, import_path.function_name(fn)
    method = next((x for x in parts if getattr(x, "__self__", None) is module), None)
    got = f"{name}, a method of {kind}" if method else f"{name}, which is made of {kind}"
    raise ArgumentError(
        f"{direction} expects a function or a module, but got {got}: an object with parameters, "
        "which would be constants without a gradient. "
        f"{_advise(method, direction)} Where constants are "
        "meant, write a function that says so: `lambda x: method(x)`."
    )


def _advise(method: Any, direction: Direction) -> str:
    """Return what to write instead of a method, or of another function that is made of a module."""
    if method is None:
        return (
            f"Pass the module, `{direction}(module)`, or a function of it, `{direction}(module, "
            "method=lambda module, x: ...)`."
        )
    module = method.__self__
    call = module.__call__ if callable(module) else None  # torch calls it something else
    is_call = method.__name__ in ("__call__", getattr(call, "__name__", None))
    method_option = "" if is_call else f', method="{method.__name__}"'
    return f"Pass the module, `{direction}(module{method_option})`."


def is_module(x: Any, source: str) -> bool:
    """Return True if `x` is a module of a source; its code is imported only if `x` can be one."""
    return _registry.can_be_module(x, source) and _registry.source(source).is_module(x)


def _holds_parameters(x: Any, source: str) -> bool:
    return _registry.can_be_module(x, source) and _registry.source(source).holds_parameters(x)


def _is_swapped(x: Any, source: str) -> bool:
    return is_module(x, source) and _registry.source(source).swaps_parameters


def _function_parts(fn: Any, source: str) -> Iterator[Any]:
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
            parts += [part.func, *(x for x in arguments if not _is_swapped(x, source))]
        inner = (getattr(part, name, None) for name in ("__self__", "__wrapped__"))
        parts += [x for x in inner if x is not None]
