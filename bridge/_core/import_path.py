"""Import paths of functions, which mean the same in another process."""

import functools
import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bridge._core.errors import ArgumentError


def function_name(fn: Callable[..., Any]) -> str:
    """Return the name of a function; for a partial function, that of the function in it.

    The `apply` of an `autograd.Function` has the name of its class, since `apply` says nothing.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type) and getattr(fn, "__name__", "") == "apply":
        return owner.__name__
    return getattr(fn, "__name__", type(fn).__name__)


def import_path(thing: Any) -> str | None:
    """Return `module:qualified.name` if importing that gives `thing`, else None."""
    name = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
    try:
        return name if import_object(name) is thing else None
    except (ImportError, AttributeError, ValueError):  # a lambda, a local function, no module
        return None


def import_object(name: str) -> Any:
    """Import what a `module:qualified.name` refers to."""
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


class PicklableFunction:
    """A function that other processes find by its import path, also under a decorator of ours.

    There, the path leads to the bridged function, so that pickle refuses what that wraps.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn

    def __reduce__(self) -> Any:
        name = f"{getattr(self.fn, '__module__', '')}:{getattr(self.fn, '__qualname__', '')}"
        try:
            is_wrapped = getattr(import_object(name), "__wrapped__", None) is self.fn
        except (ImportError, AttributeError, ValueError):
            is_wrapped = False
        return (_unwrap_import, (name,)) if is_wrapped else (PicklableFunction, (self.fn,))


def _unwrap_import(name: str) -> PicklableFunction:
    return PicklableFunction(import_object(name).__wrapped__)


def _kind(x: Any) -> str:
    return "an array" if hasattr(x, "dtype") and hasattr(x, "shape") else f"a {type(x).__name__}"


def check_parameter_names(argument: str, values: Any, names: Collection[str], module: str) -> None:
    """Raise unless `values` is a dict with exactly the `names` of a module."""
    if not isinstance(values, Mapping):
        raise ArgumentError(
            f"argument `{argument}` of {module} is {_kind(values)}. It has to be a dict like "
            f"`net.{argument}`: call `net.apply(net.params, net.buffers, *args)`."
        )
    missing = [name for name in names if name not in values]
    unknown = [name for name in values if name not in names]
    said = [f"lacks {', '.join(missing)}"] if missing else []
    said += [f"has an unknown {', '.join(map(str, unknown))}"] if unknown else []
    if said:
        raise ArgumentError(
            f"argument `{argument}` of {module} {' and '.join(said)}. Pass all that are in "
            f"`net.{argument}`, changed or not: `{{**net.{argument}, **yours}}`."
        )
