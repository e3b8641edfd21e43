"""The graph that MLX records for its transformations, and values that are asked for within it.

NOTE [values within transformations]
MLX frees what an array was computed from once its values are there, unless a transformation that
is under way has marked the array. An inner transformation takes off the marks of outer ones: what
was made of its results and then evaluated has no gradient any more, silently. While MLX runs the
vjp rule of a custom function it keeps every graph. So within transformations values are asked for
in such a rule: in ours, or in one made for that, which takes 12 us.

NOTE [whether there is a transformation]
Nothing public tells. But a compiled function is run as it is written for arrays that have been
marked, as long as there is some transformation under way; and marks stay where a transformation
ended in an error. Each thread compiles for itself, and MLX 0.32 may abort at exit if several have.
So only the thread that imports this module asks that way, and others look at what MLX keeps. For
an array of the user they cannot, since for that it would be evaluated.
"""

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx


class _Local(threading.local):
    """What a thread is at.

    Attributes:
        keeps: Whether MLX keeps every graph, since it runs one of our rules.
        ran: Whether the compiled function was run as it is written.
        run: What the custom function runs.
        result: What came of it.
    """

    keeps: bool = False
    ran: bool = False
    run: Callable[[], Any] = lambda: None
    result: Any = None


_local = _Local()


class _EndedError(Exception):
    pass


def _marked(x: mx.array) -> mx.array:
    found: list[mx.array] = []

    def keep(y: mx.array) -> mx.array:
        found.append(y)
        raise _EndedError

    with contextlib.suppress(_EndedError):
        mx.grad(keep)(x)
    return found[0]


def placeholder(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """An array that has no values and never will: to evaluate it raises."""
    found: list[mx.array] = []

    def keep(y: mx.array) -> mx.array:
        found.append(y)
        raise _EndedError

    with contextlib.suppress(_EndedError):
        mx.vmap(keep)(mx.zeros((1, *shape), dtype=dtype))
    return found[0]


@mx.compile
def _compiled(x: mx.array) -> mx.array:
    _local.ran = True
    return x


def _ran(x: mx.array) -> bool:
    _local.ran = False
    _compiled(x)
    return _local.ran


def transforming() -> bool:
    """Whether MLX transforms a function here and now: NOTE [whether there is a transformation]."""
    if _local.keeps:
        return True
    if threading.get_ident() == _THREAD:
        if not _ran(_MARKED):
            return False
        if not _ran(_ZERO):  # it is run anyway where compiling is disabled
            return True
    return _keeps_graphs()


def is_traced(x: mx.array) -> bool:
    """Whether a derivative is being taken by what `x` depends on, as far as that can be told.

    It cannot in other threads, in rules, and where compiling is disabled:
    NOTE [whether there is a transformation].
    """
    if _local.keeps or threading.get_ident() != _THREAD:
        return False
    return _ran(mx.depends([_ZERO], [x])[0]) and not _ran(_ZERO)


def _keeps_graphs() -> bool:
    """The same in 18 us, by whether a marked array still has its graph when it is evaluated."""
    text, x = io.StringIO(), mx.negative(_MARKED)
    mx.eval(x)
    mx.export_to_dot(text, x)
    return "Negative" in text.getvalue()


def in_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
    """The vjp rule of a custom function, which may ask for values as it likes."""

    @functools.wraps(rule)
    def run(*args: Any) -> Any:
        outer, _local.keeps = _local.keeps, True
        try:
            return rule(*args)
        finally:
            _local.keeps = outer

    return run


@mx.custom_function
def _within(x: mx.array) -> mx.array:
    return x


@in_rule
def _run(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
    _local.result = _local.run()
    return cotangent


_within.vjp(_run)


def remembering(run: Callable[[], Any]) -> Any:
    """The result of `run`, in which every graph is kept: NOTE [values within transformations]."""
    if _local.keeps:
        return run()
    outer, _local.run = _local.run, run
    try:
        mx.vjp(_within, [_ZERO], [_ZERO])
        return _local.result
    finally:
        _local.run, _local.result = outer, None


def evaluate(xs: Sequence[mx.array]) -> None:
    """Wait for the values of `xs`: NOTE [values within transformations]."""
    if not xs:
        return
    if transforming():
        remembering(lambda: mx.eval(xs))
    else:
        mx.eval(xs)


_THREAD = threading.get_ident()
_ZERO = mx.array(0.0)
_MARKED = _marked(_ZERO)
mx.eval(_MARKED)  # which another thread could not
_ran(_ZERO)  # compiles it
