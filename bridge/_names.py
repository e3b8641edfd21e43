"""Functions by the place they are imported from, which means the same in another process."""

import functools
import importlib
from collections.abc import Callable
from typing import Any


def called(fn: Callable[..., Any]) -> str:
    """What a function is called; a partial one as the function it is of.

    What a class applies is the class: the `apply` of an `autograd.Function` says nothing.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type) and getattr(fn, "__name__", "") == "apply":
        return owner.__name__
    return getattr(fn, "__name__", type(fn).__name__)


def place(thing: Any) -> str | None:
    """`module:qualified.name`, if `thing` is what is found there."""
    name = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
    try:
        return name if find(name) is thing else None
    except (ImportError, AttributeError, ValueError):  # a lambda, a local function, no module
        return None


def find(name: str) -> Any:
    """What is at this place; its module is imported."""
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))
