"""Calls of `autograd.Function`s, seen where torch makes them.

NOTE [apply that was bound before]
Up to torch 2.14, `apply` of every Function is Python code that ends in the `apply` of one base
class, which is replaced here: `f = Square.apply` at the top of a module ends there too. From torch
2.15 on it is C code that such an `f` holds on to, and only what is looked up later can be replaced.
That such an `f` was called is seen where C asks the class for that of the node; what it asks for
next are the functions to run, and gets others.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any

import torch

from bridge._arrays.torch import unwrap_dead
from bridge._sources.torch.autodiff.recomputing_function import (
    PLAIN,
    has_own,
    recomputing_function,
)
from bridge._sources.torch.internals import is_transforming

# `(cls, args, apply) -> outputs`, in the place of `apply(*args)`.
Intercept = Callable[[type, tuple[Any, ...], Callable[..., Any]], Any]

_FUNCTION: Any = torch.autograd.Function
_BASE: Any = _FUNCTION.__mro__[1]
_META: Any = type(_FUNCTION)
# NOTE [apply that was bound before]
_IN_C = not isinstance(vars(_FUNCTION)["apply"], classmethod)
_PLAIN: Any = vars(_FUNCTION)["apply"]
_lock = threading.Lock()
_stacks = threading.local()  # of this thread: others call their Functions as ever
_users = 0


@contextlib.contextmanager
def intercept_apply(intercept: Intercept, *, observes: bool = False) -> Generator[None]:
    """Call `intercept` in the place of each `apply` of an `autograd.Function` in this thread.

    If it only `observes`, it calls `apply` with the arguments that it is given.
    """
    stack = _stack()
    with _install():
        stack.append((intercept, observes))
        try:
            yield
        finally:
            stack.pop()


def has_jvp(cls: Any) -> bool:
    """Whether the user wrote a rule for tangents."""
    return has_own(cls, "jvp")


def has_backward(cls: Any) -> bool:
    """Whether the user wrote a rule for gradients."""
    return has_own(cls, "backward") or has_own(cls, "vjp")


def takes_context(cls: Any) -> bool:
    """Whether `forward` takes the context, as it did before torch 2."""
    # By `type`: NOTE [apply that was bound before] asks for it while it looks attributes up.
    look_up = type.__getattribute__
    return look_up(cls, "setup_context") is look_up(_BASE, "setup_context")


@contextlib.contextmanager
def _install() -> Generator[None]:
    global _users
    with _lock:
        if not _users:
            _replace_apply()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _restore_apply()


def _replace_apply() -> None:
    if _IN_C:
        _FUNCTION.apply = classmethod(_apply_function)
        _META.__getattribute__ = _look_up
    else:
        _BASE.apply = classmethod(_apply)


def _restore_apply() -> None:
    if _IN_C:
        _FUNCTION.apply = _PLAIN
        del _META.__getattribute__
    else:
        del _BASE.apply


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return _intercepted(cls, super(_BASE, cls).apply, args, kwargs)


def _apply_function(cls: Any, *args: Any, **kwargs: Any) -> Any:
    plain = _PLAIN.__get__(None, cls)
    if is_transforming():  # torch.func calls `apply` again once its transforms are done
        return plain(*args, **kwargs)
    if not takes_context(cls):
        bound = inspect.signature(cls.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    return _intercepted(cls, plain, unwrap_dead(args), kwargs)


def _intercepted(cls: Any, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    stack, apply = _stack(), _noting(cls, plain)
    # What torch.func makes of a Function is none itself.
    if not stack or kwargs or not issubclass(cls, torch.autograd.Function):
        return apply(*args, **kwargs)
    top = stack.pop()  # a Function in a Function is the business of an outer intercept
    try:
        return top[0](cls, args, apply)
    finally:
        stack.append(top)


def _noting(cls: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    """`plain`, the `apply` of `cls`, which says so before C asks for the class of the node."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        _stacks.applied = cls
        return plain(*args, **kwargs)

    return apply


def _look_up(cls: Any, name: str) -> Any:
    """Get an attribute of a class of Functions: NOTE [apply that was bound before]."""
    value = type.__getattribute__(cls, name)
    is_call = name == "_backward_cls" and issubclass(cls, torch.autograd.Function)
    if is_call and _stacks.__dict__.pop("applied", None) is not cls and _stack():
        _stacks.substitute = cls, _substitute(cls, *_stack()[-1])
    of, substitute = _stacks.__dict__.get("substitute", (None, None))
    if of is not cls or name not in ("_backward_cls", "forward", "setup_context"):
        return value
    if name == ("forward" if takes_context(cls) else "setup_context"):
        del _stacks.substitute  # the last that C asks for
    return type.__getattribute__(substitute, name) if substitute else value


def _substitute(cls: Any, intercept: Intercept, observes: bool) -> Any:  # noqa: FBT001
    """A Function that calls `intercept` in the place of `cls`; `None` if that only observes."""
    if observes:
        intercept(cls, (), lambda *_: None)
        return None

    def call(*args: Any) -> Any:
        stack = _stack()
        tops = [stack.pop()] if stack and stack[-1][0] is intercept else []
        pending = _stacks.__dict__.pop("substitute", None)  # C asks for its setup_context later
        try:
            return intercept(cls, args, lambda *_: PLAIN)
        finally:
            stack.extend(tops)
            if pending:
                _stacks.substitute = pending

    return recomputing_function(cls, call, takes_context=takes_context(cls))


def _stack() -> list[tuple[Intercept, bool]]:
    return _stacks.__dict__.setdefault("intercepts", [])
