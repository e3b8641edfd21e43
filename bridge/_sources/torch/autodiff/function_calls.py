"""Interception of the calls of `autograd.Function`s.

NOTE [apply that was bound before]
Up to torch 2.14, `apply` of every Function is Python code that calls the `apply` of one base class,
which is replaced here: `f = Square.apply` at the top of a module calls that too. From torch 2.15
on, such an `f` is bound to C code, so only an `apply` that is looked up later can be replaced. A
call of `f` is noticed when C reads the class of the node, `_backward_cls`, from the Function. Next,
C reads the functions to run, and gets others.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import torch

from bridge._arrays.torch import transforming, unwrap_dead
from bridge._sources.torch.autodiff.recomputing_function import (
    PLAIN,
    has_own,
    recomputing_function,
)

# `(cls, args, apply) -> outputs`, in the place of `apply(*args)`.
Intercept = Callable[[type, tuple[Any, ...], Callable[..., Any]], Any]


class _Interception(NamedTuple):
    """The function called in place of `apply`, and a flag: True if it only observes."""

    intercept: Intercept
    observes: bool


_FUNCTION: Any = torch.autograd.Function
_BASE: Any = _FUNCTION.__mro__[1]
_META: Any = type(_FUNCTION)
# NOTE [apply that was bound before]
_IN_C = not isinstance(vars(_FUNCTION)["apply"], classmethod)
_PLAIN: Any = vars(_FUNCTION)["apply"]
_lock = threading.Lock()
_stacks = threading.local()  # per thread: other threads call their Functions as always
_users = 0


@contextlib.contextmanager
def intercept_apply(intercept: Intercept, *, observes: bool = False) -> Generator[None]:
    """Call `intercept` in the place of each `apply` of an `autograd.Function` in this thread.

    If it only `observes`, it calls `apply` with the same arguments.
    """
    stack = _intercept_stack()
    with _install():
        stack.append(_Interception(intercept, observes))
        try:
            yield
        finally:
            stack.pop()


def has_jvp(cls: Any) -> bool:
    """Return True if the user wrote a rule for tangents."""
    return has_own(cls, "jvp")


def has_backward(cls: Any) -> bool:
    """Return True if the user wrote a rule for gradients."""
    return has_own(cls, "backward") or has_own(cls, "vjp")


def takes_context(cls: Any) -> bool:
    """Return True if `forward` takes the context, as it did before torch 2."""
    # By `type.__getattribute__`, since `_getattribute` calls this while it looks attributes up.
    look_up = type.__getattribute__
    return look_up(cls, "setup_context") is look_up(_BASE, "setup_context")


@contextlib.contextmanager
def _install() -> Generator[None]:
    """Replace `apply` while at least one thread intercepts it."""
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
        _FUNCTION.apply = classmethod(_apply_in_python)
        _META.__getattribute__ = _getattribute
    else:
        _BASE.apply = classmethod(_apply)


def _restore_apply() -> None:
    if _IN_C:
        _FUNCTION.apply = _PLAIN
        del _META.__getattribute__
    else:
        del _BASE.apply


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return _call_intercept(cls, super(_BASE, cls).apply, args, kwargs)


def _apply_in_python(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Do what `apply` of Python does, where torch has it in C."""
    plain = _PLAIN.__get__(None, cls)
    if transforming():  # torch.func calls `apply` again once its transforms are done
        return plain(*args, **kwargs)
    if not takes_context(cls):
        bound = inspect.signature(cls.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        args, kwargs = bound.args, bound.kwargs
    return _call_intercept(cls, plain, unwrap_dead(args), kwargs)


def _call_intercept(cls: Any, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call the innermost intercept in this thread, or `apply` if there is none."""
    stack, apply = _intercept_stack(), _noting_applied(cls, plain)
    # torch.func makes classes of its own from Functions, which are not intercepted.
    if not stack or kwargs or not issubclass(cls, torch.autograd.Function):
        return apply(*args, **kwargs)
    top = stack.pop()  # only outer intercepts see a Function that is called in a Function
    try:
        return top.intercept(cls, args, apply)
    finally:
        stack.append(top)


def _noting_applied(cls: Any, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Make `plain`, the `apply` of `cls`, leave a notice before C reads the class of the node."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        _stacks.applied = cls
        return plain(*args, **kwargs)

    return apply


def _getattribute(cls: Any, name: str) -> Any:
    """Get an attribute of a Function, or of its substitute: NOTE [apply that was bound before]."""
    value = type.__getattribute__(cls, name)
    is_call = name == "_backward_cls" and issubclass(cls, torch.autograd.Function)
    if is_call and _stacks.__dict__.pop("applied", None) is not cls and _intercept_stack():
        _stacks.substitute = cls, _make_substitute(cls, *_intercept_stack()[-1])
    original, substitute = _stacks.__dict__.get("substitute", (None, None))
    if original is not cls or name not in ("_backward_cls", "forward", "setup_context"):
        return value
    if name == ("forward" if takes_context(cls) else "setup_context"):
        del _stacks.substitute  # C reads this attribute last
    return type.__getattribute__(substitute, name) if substitute else value


def _make_substitute(cls: Any, intercept: Intercept, observes: bool) -> Any:  # noqa: FBT001
    """Make a Function that calls `intercept` in the place of `cls`; `None` if it only observes."""
    if observes:
        intercept(cls, (), lambda *_: None)
        return None

    def call(*args: Any) -> Any:
        stack = _intercept_stack()
        tops = [stack.pop()] if stack and stack[-1].intercept is intercept else []
        pending = _stacks.__dict__.pop("substitute", None)  # C reads its setup_context later
        try:
            return intercept(cls, args, lambda *_: PLAIN)
        finally:
            stack.extend(tops)
            if pending:
                _stacks.substitute = pending

    return recomputing_function(cls, call, takes_context=takes_context(cls))


def _intercept_stack() -> list[_Interception]:
    return _stacks.__dict__.setdefault("intercepts", [])
