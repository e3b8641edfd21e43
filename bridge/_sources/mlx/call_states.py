"""The captured states of past calls, for their derivatives in compiled programs.

NOTE [numbers of states]
A compiled program hands on arrays only, and the state that a function captures is no array. So
states are numbered, and the derivative gets the number. No caller says when a state can be
forgotten: the last states are stored, as long as the arrays that only they have are small.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable

import mlx.core as mx

from bridge._core.call_stamp import returning_stamp, taking_stamp
from bridge._core.captured_state import CapturedState
from bridge._core.errors import ArgumentError
from bridge._core.op import ForwardBackward, Op, Positions

_MOST_STATES, _MOST_BYTES = 4096, 2**26


class CallStates:
    """The states at the last calls of a function: NOTE [numbers of states].

    Args:
        read: Returns the current state.
        name: The name of the function.
    """

    def __init__(self, read: Callable[[], CapturedState], name: str) -> None:
        self._read, self._name = read, name
        self._numbers, self._lock = itertools.count(), threading.Lock()
        self._states: dict[int, CapturedState] = {}
        self._sizes: dict[int, int] = {}  # in bytes, of the arrays that no later state has
        self._bytes = 0

    def store_current(self) -> int:
        """Store the current state and return its number."""
        with self._lock:
            state = self._read()
            last = next(reversed(self._states), None)
            if last is not None:
                before = self._states[last]
                if state.contents is before.contents and not before.changed_arrays():
                    return last
                self._sizes[last] = _dropped_size(before, state)
                self._bytes += self._sizes[last]
            number = next(self._numbers)
            self._states[number] = state
            while len(self._states) > _MOST_STATES or self._bytes > _MOST_BYTES:
                oldest = next(iter(self._states))
                del self._states[oldest]
                self._bytes -= self._sizes.pop(oldest, 0)
            return number

    def restored(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the state of this number is restored."""
        state = self._states.get(number)
        if state is None:
            raise ArgumentError(
                f"what {self._name} captures has changed too often since the call that this "
                "derivative is of, so that it is no longer stored. Pass what changes as an "
                "argument."
            )
        return state.restored()


def _dropped_size(before: CapturedState, now: CapturedState) -> int:
    """Return the bytes of the arrays that a state has and the next one has not."""
    shared = {id(x) for x, _ in now.copies} - {id(x) for x, _ in before.changed_arrays()}
    return sum(getattr(x, "nbytes", 0) for x, _ in before.copies if id(x) not in shared)


def make_recompute_rule(
    op: Op,
    states: CallStates,
    count: int,
    vjp: Callable[[Positions, Positions], Op],
    jvp: Callable[[Positions], Op],
) -> Callable[..., ForwardBackward]:
    """Make the rule for a forward/backward pair of `op`, of `count` primals, that recomputes.

    Its residuals are the primals and the number of the state.
    """
    enter = lambda stamp: states.restored(int(stamp.item()))
    make_stamp = lambda shape: mx.full(shape, states.store_current(), mx.int32)

    def forward_backward(argnums: Positions, outnums: Positions) -> ForwardBackward:
        backward = lambda argnums, outnums: taking_stamp(vjp(argnums, outnums), count, enter)
        return ForwardBackward(
            strategy="recompute",
            forward=returning_stamp(op, make_stamp, (1,)),
            backward=functools.cache(lambda argnums: backward(argnums, outnums)),
            output_count=len(op.output_specs()),
            saved_primals=tuple(range(count)),
            saved_outputs=(),
            backward_from=functools.cache(backward),
            tangents=functools.cache(lambda argnums: taking_stamp(jvp(argnums), count, enter)),
            holds_values=False,
        )

    return forward_backward
