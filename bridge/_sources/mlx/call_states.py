"""Derivatives of calls from compiled programs, on the states of these calls.

NOTE [numbers of states]
What a function captures at a call is no array, and a compiled program hands on nothing else. So
states are numbered, and the derivative gets the number. Nobody tells when a state is no longer
needed: the last ones are kept, as long as the arrays that only they have are small.
"""

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._core.captured_state import CapturedState
from bridge._core.errors import ArgumentError
from bridge._core.op import Arrays, ForwardBackward, Op, Positions, Specs
from bridge._core.spec import ArraySpec
from bridge._sources.mlx.batching import Axes

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

    def forward_backward(argnums: Positions, outnums: Positions) -> ForwardBackward:
        backward = lambda argnums, outnums: _on_state(vjp(argnums, outnums), states, count)
        return ForwardBackward(
            strategy="recompute",
            forward=_with_number(op, states),
            backward=functools.cache(lambda argnums: backward(argnums, outnums)),
            output_count=len(op.output_specs()),
            saved_primals=tuple(range(count)),
            saved_outputs=(),
            backward_from=functools.cache(backward),
            tangents=functools.cache(lambda argnums: _on_state(jvp(argnums), states, count)),
        )

    return forward_backward


def _value(number: Any) -> int:
    return int(number.item())


def _with_number(op: Op, states: CallStates, batch: Sequence[int] = ()) -> Op:
    """`op` with one more result, the number of the state that it was called on."""
    op = dataclasses.replace(
        op, notes={}, _derived={}
    )  # what is derived here is called nowhere else
    shape, into = (*batch, 1), op.call_into

    def numbered(run: Callable[[], Arrays]) -> Arrays:
        number = mx.full(shape, states.number(), mx.int32)
        return *run(), number

    def specs(*inputs: ArraySpec) -> Specs:
        return *op.output_specs(*inputs), ArraySpec(shape, "int32")

    reach = op.dependencies
    return dataclasses.replace(
        op,
        call=lambda *xs: numbered(lambda: op.call(*xs)),
        call_into=into and (lambda places, xs: numbered(lambda: into(places[:-1], xs))),
        output_specs=specs,
        vmap=lambda axes, size: _with_number(op.derive("vmap", axes, size), states, (size, *batch)),
        dependencies=reach and (lambda: [*reach(), frozenset[int]()]),
        notes={},
        _derived={},
    )


def _on_state(op: Op, states: CallStates, at: int, batch: tuple[int | None, ...] = ()) -> Op:
    """`op` on the state whose number it takes at the position `at`.

    Of a batch along the axes `batch`, the outermost first, the first example tells.
    """
    op = dataclasses.replace(op, notes={}, _derived={})  # as above

    def on_state(xs: Sequence[mx.array], run: Callable[..., Arrays]) -> Arrays:
        number, others = xs[at], [*xs[:at], *xs[at + 1 :]]
        if not number.size:
            return run(others)
        for axis in batch:
            number = number if axis is None else mx.take(number, 0, axis)
        with states.restored(_value(number)):
            return run(others)

    def vmap(axes: Axes, size: int) -> Op:
        others = (*axes[:at], *axes[at + 1 :])
        return _on_state(op.derive("vmap", others, size), states, at, (axes[at], *batch))

    into, reach = op.call_into, op.dependencies
    return dataclasses.replace(
        op,
        call=lambda *xs: on_state(xs, lambda others: op.call(*others)),
        call_into=into and (lambda places, xs: on_state(xs, lambda others: into(places, others))),
        vmap=vmap,
        dependencies=reach
        and (lambda: [frozenset(i + (i >= at) for i in some) for some in reach()]),
        notes={},
        _derived={},
    )
