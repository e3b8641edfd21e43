"""Derivatives of calls from compiled programs, on the states of these calls.

NOTE [numbers of states]
What a function captures at a call is no array, and a compiled program hands on nothing else. So
states are numbered, and the derivative gets the number. Nobody tells when a state is no longer
needed: the last ones are kept, as long as the arrays that only they have are small.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable

import mlx.core as mx

from bridge._core.call_stamp import taking_stamp, with_stamp
from bridge._core.captured_state import CapturedState
from bridge._core.errors import ArgumentError
from bridge._core.op import ForwardBackward, Op, Positions

_MOST_STATES, _MOST_BYTES = 4096, 2**26


class CallStates:
    """The states of the last calls of a function: NOTE [numbers of states].

    Args:
        read: What reads its state now.
        name: Of the function.
    """

    def __init__(self, read: Callable[[], CapturedState], name: str) -> None:
        self._read, self._name = read, name
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._states: dict[int, CapturedState] = {}
        self._sizes: dict[int, int] = {}  # of the arrays that later states have not
        self._bytes = 0

    def number(self) -> int:
        """That of the state now."""
        with self._lock:
            state = self._read()
            last = next(reversed(self._states), None)
            if last is not None:
                before = self._states[last]
                if state.contents is before.contents and not before.changed_arrays():
                    return last
                self._sizes[last] = _size_of_others(before, state)
                self._bytes += self._sizes[last]
            number = next(self._numbers)
            self._states[number] = state
            while len(self._states) > _MOST_STATES or self._bytes > _MOST_BYTES:
                oldest = next(iter(self._states))
                del self._states[oldest]
                self._bytes -= self._sizes.pop(oldest, 0)
            return number

    def restored(self, number: int) -> contextlib.AbstractContextManager[None]:
        """A context in which the state of this number is back."""
        state = self._states.get(number)
        if state is None:
            raise ArgumentError(
                f"what {self._name} captures has changed too often since the call that this is the "
                "derivative of, and is not kept any longer. Pass what changes as an argument."
            )
        return state.restored()


def _size_of_others(before: CapturedState, now: CapturedState) -> int:
    """How large the arrays are that a state has, and the next one has not."""
    same = {id(x) for x, _ in now.copies} - {id(x) for x, _ in before.changed_arrays()}
    return sum(getattr(x, "nbytes", 0) for x, _ in before.copies if id(x) not in same)


def recompute(
    op: Op,
    states: CallStates,
    count: int,
    vjp: Callable[[Positions, Positions], Op],
    jvp: Callable[[Positions], Op],
) -> Callable[..., ForwardBackward]:
    """The rule for halves of a derivative of `op`, of `count` primals, that save nothing else."""
    enter = lambda stamp: states.restored(int(stamp.item()))
    number = lambda shape: mx.full(shape, states.number(), mx.int32)

    def forward_backward(argnums: Positions, outnums: Positions) -> ForwardBackward:
        backward = lambda argnums, outnums: taking_stamp(vjp(argnums, outnums), count, enter)
        return ForwardBackward(
            strategy="recompute",
            forward=with_stamp(op, number, (1,)),
            backward=functools.cache(lambda argnums: backward(argnums, outnums)),
            output_count=len(op.output_specs()),
            saved_primals=tuple(range(count)),
            saved_outputs=(),
            backward_from=functools.cache(backward),
            tangents=functools.cache(lambda argnums: taking_stamp(jvp(argnums), count, enter)),
        )

    return forward_backward
