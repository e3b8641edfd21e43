"""Detection of `mx.compile`, which like `mx.vmap` runs functions on arrays without values.

NOTE [who is asking]
Nothing in Python tells the two apart: both run a function on arrays that only have shapes.
`mx.vmap` later replaces the results by those of a rule. `mx.compile` and `mx.export_function`
record the operations of the function, and cannot record a call of other code. But they are
different code in MLX, so the return addresses on the thread's stack differ. Which addresses belong
to which is learned by reading the stack within each of them. If the C library cannot read the
stack, `mx.compile` is not recognized, and compiled functions raise when their results are
evaluated.
"""

import ctypes
import functools
from collections.abc import Callable

import mlx.core as mx

_MOST_FRAMES = 512
ReturnAddresses = list[int | None]


def _read_return_addresses() -> ReturnAddresses:
    """Return the return addresses on the stack of this thread, the innermost first."""
    try:
        walk = ctypes.PyDLL(None).backtrace
    except (AttributeError, OSError, TypeError):  # a C library without it
        return []
    addresses = (ctypes.c_void_p * _MOST_FRAMES)()
    return list(addresses[: walk(addresses, _MOST_FRAMES)])


Signatures = tuple[frozenset[int | None], frozenset[int | None]]


def _frame_signatures() -> Signatures:
    """Return the addresses that are on the stack only in `mx.compile`, and only in `mx.vmap`."""
    compiling, mapping = _learn_frame_signatures()
    if not compiling:  # learned while `mx.disable_compile` was in effect
        _learn_frame_signatures.cache_clear()
    return compiling, mapping


@functools.cache
def _learn_frame_signatures() -> Signatures:
    compiling = _addresses_within(lambda fn: mx.compile(fn)(_X))
    # Inside of other transformations, `mx.compile` calls the function and records nothing.
    calling = _addresses_within(lambda fn: mx.vmap(mx.compile(fn))(_X))
    mapping = _addresses_within(lambda fn: mx.vmap(fn)(_X))
    in_rule = _addresses_within(_run_in_vmap_rule)
    return compiling - calling - mapping, mapping & calling - compiling - in_rule


_X = mx.array([0.0])  # has values, wherever this module is imported


def _addresses_within(
    transform: Callable[[Callable[[mx.array], mx.array]], object],
) -> frozenset[int | None]:
    """Return the addresses that `transform` adds to the stack while it runs a function."""
    outer_depth = len(_read_return_addresses())  # the caller may itself be in a compiled function
    stacks: list[ReturnAddresses] = []

    def note_stack(x: mx.array) -> mx.array:
        stacks.append(_read_return_addresses())
        return x

    transform(note_stack)
    return frozenset(stacks[0][: len(stacks[0]) - outer_depth])


def _run_in_vmap_rule(fn: Callable[[mx.array], mx.array]) -> None:
    function = mx.custom_function(lambda x: x)
    function.vmap(lambda x, axis: (fn(x), axis))
    mx.vmap(function)(_X)


def is_compiling() -> bool:
    """Return True if `mx.compile` asks for an array without values: NOTE [who is asking]."""
    compiling, mapping = _frame_signatures()
    innermost = next((x for x in _read_return_addresses() if x in compiling or x in mapping), None)
    return innermost in compiling
