"""Calls of `autograd.Function`s, seen where torch makes them."""

import contextlib
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch

# `(cls, args, apply) -> outputs`, in the place of `apply(*args)`.
Intercept = Callable[[type, tuple[Any, ...], Callable[..., Any]], Any]

# Where `apply` of every autograd.Function ends, also one that was looked up long before.
_BASE: Any = torch.autograd.Function.__mro__[1]
_lock = threading.Lock()
_stacks = threading.local()  # of this thread: others call their Functions as ever
_users = 0


@contextlib.contextmanager
def intercept_apply(intercept: Intercept) -> Generator[None]:
    """Let `intercept` stand for each `apply` of an `autograd.Function` in this thread."""
    stack = _stack()
    with _install():
        stack.append(intercept)
        try:
            yield
        finally:
            stack.pop()


def has_jvp(cls: Any) -> bool:
    """Whether the user wrote a rule for tangents."""
    return cls.jvp is not _BASE.jvp


def has_backward(cls: Any) -> bool:
    """Whether the user wrote a rule for gradients."""
    return cls.backward is not _BASE.backward or cls.vjp is not _BASE.vjp


def takes_context(cls: Any) -> bool:
    """Whether `forward` takes the context, as it did before torch 2."""
    return cls.setup_context is _BASE.setup_context


@contextlib.contextmanager
def _install() -> Generator[None]:
    global _users
    with _lock:
        if not _users:
            _BASE.apply = classmethod(_apply)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                del _BASE.apply


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    plain: Callable[..., Any] = super(_BASE, cls).apply
    stack = _stack()
    # What torch.func makes of a Function is none itself.
    if not stack or kwargs or not issubclass(cls, torch.autograd.Function):
        return plain(*args, **kwargs)
    intercept = stack.pop()  # a Function in a Function is the business of an outer intercept
    try:
        return intercept(cls, args, plain)
    finally:
        stack.append(intercept)


def _stack() -> list[Intercept]:
    return _stacks.__dict__.setdefault("intercepts", [])
