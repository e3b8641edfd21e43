"""The graph that MLX records for its transformations, and values that are asked for within it.

NOTE [values within transformations]
MLX frees what an array was computed from once its values are there, unless a transformation that
is under way has marked the array. An inner transformation takes off the marks of outer ones: what
was made of its results and then evaluated has no gradient any more, silently. While MLX runs the
vjp rule of a custom function it keeps every graph. So within transformations values are asked for
in such a rule: in ours, or in one made for that, which takes 12 us.

NOTE [whether there is a transformation]
Nothing public tells. But a compiled function is run as it is written for arrays that have been
marked, as long as there is some transformation under way; and marks stay on results, and where a
transformation ended in an error. Each thread compiles for itself, and MLX 0.32 may abort at exit
if one has that is gone. So only the main thread asks that way. Others ask, as it does where
compiling is disabled, `mx.async_eval`, which takes 8 us: it has one error for such arrays and
another for those without values, so that nothing is evaluated.

NOTE [traced arrays]
MLX marks what a derivative is taken by and all that is computed from it. But an inner
transformation takes marks off, where every graph is kept everything has one, and results of earlier
derivatives keep theirs. What is always there is the copy that MLX makes of what it takes a
derivative by: it is in the graph of whatever depends on it.
"""

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx.streams import build_stream, evaluation_lock, renew_after_fork
from bridge._arrays.mlx.threads import on_python_thread
from bridge._core.errors import NoValuesError


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


def unmarked_placeholder(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """The same, which does not look as if a derivative were taken by it."""
    found: list[mx.array] = []

    def keep(y: mx.array) -> mx.array:
        found.append(y)
        return y

    mx.vmap(keep)(mx.zeros((1, *shape), dtype=dtype))
    return found[0]


@mx.compile
def _compiled(x: mx.array) -> mx.array:
    _local.ran = True
    return x


def transforming() -> bool:
    """Whether MLX transforms a function here and now: NOTE [whether there is a transformation]."""
    if _local.keeps:
        return True
    if threading.get_ident() == _THREAD and not _ran(_MARKED):
        return False
    return _asked(_MARKED)  # again: the first time on a stream, it was run to be compiled


def is_traced(x: mx.array) -> bool:
    """Whether a derivative is being taken by what `x` depends on: NOTE [traced arrays]."""
    if not transforming():
        return False
    text = io.StringIO()
    mx.export_to_dot(text, x)
    return '"Copy"' in text.getvalue() or ("->" in text.getvalue() and _is_marked(x))


def _is_marked(x: mx.array) -> bool:
    """Whether `x` is marked in a transformation, which can be told unless every graph is kept."""
    if _local.keeps:
        return False
    with build_stream():
        behind = mx.depends([_ZERO], [x])[0]
    return _asked(behind)


def _asked(x: mx.array) -> bool:
    if threading.get_ident() == _THREAD:
        if not _ran(x):
            return False
        if not _ran(_ZERO):  # it is run anyway where compiling is disabled
            return True
    return _refused(x)


def captures_traced(build: Callable[[], Sequence[mx.array]]) -> bool:
    """Whether what `build` makes of unmarked arrays depends on some that are traced.

    Then it has marks, as it also has if it is a derivative itself; but in a thread without a
    transformation only if it is. Where both are so, nothing tells.
    """
    if _local.keeps or not transforming() or not any(map(_is_marked, build())):
        return False
    if _is_marked(_ZERO):  # every graph is kept, in a rule that is not ours
        return False
    derived: list[bool] = []

    def elsewhere() -> None:
        with build_stream():
            built = build()
            mx.grad(lambda x: (derived.append(any(map(_refused, built))), x)[1])(_ZERO)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    return derived == [False]


def _ran(x: mx.array) -> bool:
    _local.ran = False
    _compiled(x)
    return _local.ran


def _refused(x: mx.array) -> bool:
    """Whether `x` is marked in a transformation, in any thread."""
    try:
        with build_stream():
            mx.async_eval(mx.depends([_VALUELESS], [x]))
    except ValueError:
        return True
    except RuntimeError:
        return False
    raise AssertionError("an array without values was evaluated")


def vjp_rule(rule: Callable[..., Any]) -> Callable[..., Any]:
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


@vjp_rule
def _run(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
    _local.result = _local.run()
    return cotangent


_within.vjp(_run)


def keeping_graph(run: Callable[[], Any]) -> Any:
    """The result of `run`, in which every graph is kept: NOTE [values within transformations]."""
    if _local.keeps:
        return run()
    outer, _local.run = _local.run, run
    try:
        mx.vjp(_within, [_ZERO], [_ZERO])
        return _local.result
    finally:
        _local.run, _local.result = outer, None


def async_evaluate(xs: Sequence[mx.array]) -> None:
    """Have `xs` computed while the caller goes on; errors may come here or from `evaluate`.

    Who waits at once falls asleep, and waking up takes longer than 16 numbers: what is done
    meanwhile, up to 20 us, makes the whole faster.
    """
    if not transforming():
        with _explained(), evaluation_lock():
            mx.async_eval(xs)


def evaluate(xs: Sequence[mx.array]) -> None:
    """Wait for the values of `xs`, all in one go: NOTE [values within transformations].

    Threads take turns, since it may be in `compute_stream` that they were made.
    """
    if not xs:
        return
    renew_after_fork()
    with _explained(), evaluation_lock():
        if transforming():
            keeping_graph(lambda: mx.eval(xs))
        else:
            mx.eval(xs)


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Errors of arrays that have no values, or none in this thread, say so."""
    try:
        yield
    except ValueError as error:
        if "function transformations" not in str(error):
            raise
        raise TracerError(_TRACER) from error
    except RuntimeError as error:
        if "in current thread" not in str(error):
            raise
        raise NoValuesError(_OTHER_THREAD) from error


class TracerError(NoValuesError):
    """An array inside of `mx.vmap` or `mx.compile`."""


def _check(x: mx.array) -> mx.array:
    if not (transforming() and is_traced(x) and _refused(x)):
        raise ImportError(
            "bridge cannot tell whether MLX takes a derivative, without which gradients would be "
            "lost: this is another MLX than those it was made for, from 0.32 on."
        )
    return x


_TRACER = (
    "an MLX array inside of mx.vmap or mx.compile has no values. Call the function outside of the "
    "transformation, or wrap the function that takes the array."
)
_OTHER_THREAD = (
    "an MLX array was put off in one thread and is wanted in another, which MLX refuses. Evaluate "
    "arrays that a function captures, with mx.eval, in the thread that makes them; or pass them as "
    "arguments."
)


def _prepared() -> tuple[mx.array, mx.array, mx.array]:
    zero = mx.array(0.0)
    marked, valueless = _marked(zero), unmarked_placeholder((), mx.float32)
    mx.eval(marked)  # which another thread could not
    return zero, marked, valueless


_THREAD = threading.main_thread().ident
_ZERO, _MARKED, _VALUELESS = on_python_thread(_prepared)
on_python_thread(lambda: mx.grad(_check)(_ZERO))
