"""Whether what asks for a function without giving values is `mx.compile`, or `mx.vmap`.

NOTE [who is asking]
Nothing in Python tells: both run a function on arrays that only have shapes. `mx.vmap` replaces the
results afterwards by those of a rule, `mx.compile` and `mx.export_function` write down what the
function did, where a call of other code cannot stand. But they are different code of MLX, and the
return addresses on the stack of the thread say whose. Which those are is found out by asking
from within each of them. Where the C library cannot tell the addresses, nobody is recognized, and
compiled functions raise when their results are evaluated.
"""

import ctypes
import functools
from collections.abc import Callable

import mlx.core as mx

_MOST_FRAMES = 512
Stack = list[int | None]


def _stack() -> Stack:
    """The return addresses of the calls that led here, the last one first."""
    try:
        walk = ctypes.PyDLL(None).backtrace
    except (AttributeError, OSError, TypeError):  # a C library without it
        return []
    found = (ctypes.c_void_p * _MOST_FRAMES)()
    return list(found[: walk(found, _MOST_FRAMES)])


@functools.cache
def _frame_signatures() -> tuple[frozenset[int | None], frozenset[int | None]]:
    """The addresses that only `mx.compile` leaves, and only `mx.vmap`, while a function runs."""
    compiled = _within(lambda fn: mx.compile(fn)(_ROW))
    # Inside of other transformations, `mx.compile` calls the function and records nothing.
    called = _within(lambda fn: mx.vmap(mx.compile(fn))(_ROW))
    mapped = _within(lambda fn: mx.vmap(fn)(_ROW))
    replaced = _within(_in_rule)
    return compiled - called - mapped, mapped & called - compiled - replaced


_ROW = mx.zeros((1,))


def _within(transform: Callable[[Callable[[mx.array], mx.array]], object]) -> frozenset[int | None]:
    here = len(_stack())  # what led to this call may be a compiled function as well
    found: list[Stack] = []

    def note(x: mx.array) -> mx.array:
        found.append(_stack())
        return x

    transform(note)
    return frozenset(found[0][: len(found[0]) - here])


def _in_rule(fn: Callable[[mx.array], mx.array]) -> None:
    function = mx.custom_function(lambda x: x)
    function.vmap(lambda x, axis: (fn(x), axis))
    mx.vmap(function)(_ROW)


def is_compiling() -> bool:
    """Whether an array without values belongs to `mx.compile`: NOTE [who is asking]."""
    compiled, mapped = _frame_signatures()
    sign = next((x for x in _stack() if x in compiled or x in mapped), None)
    return sign in compiled
