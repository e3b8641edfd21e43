"""Evaluation of MLX arrays within MLX's transformations, without losing their gradients.

NOTE [values within transformations]
MLX frees the graph of an array when it is evaluated, unless a transformation that is under way has
marked the array as a tracer. An inner transformation removes the marks of outer ones: what is
computed from its results and then evaluated loses its gradient, silently. While MLX runs the vjp
rule of a custom function it keeps every graph. So within transformations arrays are evaluated in
such a rule: in one of ours, or in one made for that, which costs 12 us.

NOTE [whether there is a transformation]
MLX has no public way to ask. But while any transformation is under way, MLX runs a compiled
function uncompiled if its argument is marked; and an array keeps its mark if it is a result, or if
its transformation ended in an error. Each thread compiles for itself, and MLX 0.32 may abort at
exit if a thread that compiled has ended. So only the main thread asks this way. Other threads, and
the main thread if compiling is disabled, ask `mx.async_eval`, which costs 8 us: it has one error
for marked arrays and another for arrays without values, so that nothing is evaluated.

NOTE [traced arrays]
MLX marks the primals of a derivative and all that is computed from them. But an inner
transformation removes marks, everything is marked while every graph is kept, and results of earlier
derivatives keep their marks. What is always there is the copy that MLX makes of each primal: it is
in the graph of whatever depends on the primal.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx.streams import evaluation_lock, lazy_stream, renew_after_fork
from bridge._arrays.mlx.threads import on_python_thread
from bridge._arrays.mlx.upstream.dot_graph import graph_text
from bridge._core.errors import NoValuesError


class _Local(threading.local):
    """The state of a thread.

    Attributes:
        keeps_graphs: True if MLX keeps every graph, since it runs one of our rules.
        ran_uncompiled: True if MLX ran `_probe` uncompiled.
        body: The function that the rule of `_identity` runs.
        result: The result of `body`.
    """

    keeps_graphs: bool = False
    ran_uncompiled: bool = False
    body: Callable[[], Any] = lambda: None
    result: Any = None


_local = _Local()


class _EndedError(Exception):
    pass


def _mark_tracer(x: mx.array) -> mx.array:
    """Return `x` as `mx.grad` marks it."""
    return _captured(mx.grad, x)


def _captured(transform: Callable[[Any], Callable[[mx.array], Any]], x: mx.array) -> mx.array:
    """Return what `transform` makes of `x`: an error ends it before it takes off the mark."""
    tracers: list[mx.array] = []

    def capture(y: mx.array) -> mx.array:
        tracers.append(y)
        raise _EndedError

    with contextlib.suppress(_EndedError):
        transform(capture)(x)
    return tracers[0]


def placeholder(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """Make an array without values, which raises when it is evaluated."""
    return _captured(mx.vmap, mx.zeros((1, *shape), dtype=dtype))


def unmarked_placeholder(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """Make a `placeholder` that is not marked as a tracer."""
    tracers: list[mx.array] = []

    def capture(y: mx.array) -> mx.array:
        tracers.append(y)
        return y  # the transformation ends, and unmarks it

    mx.vmap(capture)(mx.zeros((1, *shape), dtype=dtype))
    return tracers[0]


@mx.compile
def _probe(x: mx.array) -> mx.array:
    _local.ran_uncompiled = True
    return x


def transforming() -> bool:
    """Return True within a transformation of MLX: NOTE [whether there is a transformation]."""
    if _local.keeps_graphs:
        return True
    if threading.get_ident() == _MAIN_THREAD and not _probe_runs_uncompiled(_MARKED):
        return False
    return _is_tracer(_MARKED)  # again, since the first call on a stream runs it to compile it


def is_traced(x: mx.array) -> bool:
    """Return True if `x` depends on a primal of a derivative: NOTE [traced arrays]."""
    if not transforming():
        return False
    text = graph_text(x)
    return '"Copy"' in text or ("->" in text and _has_tracer_mark(x))


def _has_tracer_mark(x: mx.array) -> bool:
    """Return True if `x` is marked; False if every graph is kept, when marks tell nothing."""
    if _local.keeps_graphs:
        return False
    with lazy_stream():
        dependent = mx.depends([_ZERO], [x])[0]
    return _is_tracer(dependent)


def _is_tracer(x: mx.array) -> bool:
    """Return True if `x` is marked and a transformation is under way in this thread."""
    if threading.get_ident() == _MAIN_THREAD:
        if not _probe_runs_uncompiled(x):
            return False
        if not _probe_runs_uncompiled(_ZERO):  # if compiling is disabled, all arrays run uncompiled
            return True
    return _async_eval_refuses(x)


def captures_traced(build: Callable[[], Sequence[mx.array]]) -> bool:
    """Return True if what `build` makes of unmarked arrays depends on traced arrays.

    Its results then have marks. They also have marks if `build` takes a derivative itself, but then
    in a thread without a transformation too. If both are the case, this returns False.
    """
    if _local.keeps_graphs or not transforming() or not any(map(_has_tracer_mark, build())):
        return False
    if keeps_graphs_for_others():
        return False
    marked: list[bool] = []

    def build_in_thread() -> None:
        with lazy_stream():
            outputs = build()
            mx.grad(lambda x: (marked.append(any(map(_async_eval_refuses, outputs))), x)[1])(_ZERO)

    thread = threading.Thread(target=build_in_thread)
    thread.start()
    thread.join()
    return marked == [False]


def keeps_graphs_for_others() -> bool:
    """Return True if a rule that is not ours runs, as that of `mx.checkpoint`, which reruns."""
    return not _local.keeps_graphs and _has_tracer_mark(_ZERO)


def _probe_runs_uncompiled(x: mx.array) -> bool:
    _local.ran_uncompiled = False
    _probe(x)
    return _local.ran_uncompiled


def _async_eval_refuses(x: mx.array) -> bool:
    """Return True if `x` is marked and a transformation is under way, in whatever thread."""
    try:
        with lazy_stream():
            mx.async_eval(mx.depends([_VALUELESS], [x]))
    except ValueError:
        return True
    except RuntimeError:
        return False
    raise AssertionError("an array without values was evaluated")


def vjp_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
    """Return `rule`, the vjp rule of a custom function, such that it may evaluate arrays."""

    @functools.wraps(rule)
    def run(*args: Any) -> Any:
        outer, _local.keeps_graphs = _local.keeps_graphs, True
        try:
            return rule(*args)
        finally:
            _local.keeps_graphs = outer

    return run


@mx.custom_function
def _identity(x: mx.array) -> mx.array:
    return x


@vjp_rule
def _run_body(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
    _local.result = _local.body()
    return cotangent


_identity.vjp(_run_body)


def keeping_graph(run: Callable[[], Any]) -> Any:
    """Return the result of `run`; MLX keeps every graph: NOTE [values within transformations]."""
    if _local.keeps_graphs:
        return run()
    outer, _local.body = _local.body, run
    try:
        mx.vjp(_identity, [_ZERO], [_ZERO])
        return _local.result
    finally:
        _local.body, _local.result = outer, None


def async_evaluate(xs: Sequence[mx.array]) -> bool:
    """Start computing `xs` and return, unless within a transformation; return True if it started.

    Errors are raised here or by `evaluate`.

    A thread that waits falls asleep, and waking it up takes longer than computing 16 numbers: up
    to 20 us of work that the caller does before it waits cost nothing.
    """
    if transforming():
        return False
    try:
        with evaluation_lock():
            mx.async_eval(xs)
    except (RuntimeError, ValueError) as error:
        _raise_translated(error)
        raise
    return True


def evaluate(xs: Sequence[mx.array]) -> None:
    """Compute the values of `xs`, all at once: NOTE [values within transformations].

    It holds the lock, since they may have been made in `compute_stream`.
    """
    if not xs:
        return
    renew_after_fork()
    try:
        with evaluation_lock():
            if transforming():
                keeping_graph(lambda: mx.eval(xs))
            else:
                mx.eval(xs)
    except (RuntimeError, ValueError) as error:
        _raise_translated(error)
        raise


# Not a context, which would cost a microsecond each time, and there are four in a gradient.
def _raise_translated(error: RuntimeError | ValueError) -> None:
    """Raise an error of MLX about arrays without values as `NoValuesError`, with advice."""
    if isinstance(error, ValueError) and "function transformations" in str(error):
        raise TracerError(_TRACER) from error
    if isinstance(error, RuntimeError) and "in current thread" in str(error):
        raise NoValuesError(_OTHER_THREAD) from error


class TracerError(NoValuesError):
    """An array inside of `mx.vmap` or `mx.compile`."""


def _check_version(x: mx.array) -> mx.array:
    if not (transforming() and is_traced(x) and _async_eval_refuses(x)):
        raise ImportError(
            "bridge cannot tell whether MLX takes a derivative, so gradients would be lost: it "
            "does not support this version of MLX, only those like 0.32."
        )
    return x


_TRACER = (
    "an MLX array inside of mx.vmap or mx.compile has no values. Call the function outside of the "
    "transformation, or wrap the function that takes the array."
)
_OTHER_THREAD = (
    "a lazy MLX array was made in one thread and is evaluated in another, which MLX refuses. "
    "Evaluate arrays that a function captures, with mx.eval, in the thread that makes them; or "
    "pass them as arguments."
)


def _make_probe_arrays() -> tuple[mx.array, mx.array, mx.array]:
    zero = mx.array(0.0)
    marked, valueless = _mark_tracer(zero), unmarked_placeholder((), mx.float32)
    mx.eval(marked)  # another thread could not evaluate it
    return zero, marked, valueless


_MAIN_THREAD = threading.main_thread().ident
_ZERO, _MARKED, _VALUELESS = on_python_thread(_make_probe_arrays)
on_python_thread(lambda: mx.grad(_check_version)(_ZERO))
