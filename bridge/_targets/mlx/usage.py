"""What a derivative of a call is asked for, which MLX does not tell its rule.

NOTE [what is used]
The rule gets zeros for outputs that nobody used, where 0 times what is infinite is no gradient,
and is to give the gradients of all arguments, though some may have none, as the running mean of a
batch norm. But MLX only calls the rules of what lies between the outputs that are used and the
arguments that are differentiated. So each output passes through a function that does nothing to
it, whose rule notes that it is used. That function also takes a mark of each argument, which
depends on the argument and, without a derivative, on the call: its rule notes that the argument is
wanted, and comes before the rule of the call, after those of the outputs.

That costs as much as a small call, so nothing is asked that can be told: the rule is not called
unless something is wanted; and a derivative is linear in its cotangents or tangents, by which it
has a gradient that comes with the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._core.op import Arrays, Positions
from bridge._targets.mlx.gradient_plan import CallPlan


def custom_function(
    fn: Callable[..., Any],
    vjp: Callable[..., Any],
    jvp: Callable[..., Any],
    vmap: Callable[..., Any],
) -> Callable[..., Any]:
    """`fn` as a custom function of MLX with these rules."""
    function = mx.custom_function(fn)
    function.vjp(vjp)
    function.jvp(jvp)
    function.vmap(vmap)
    return function


def as_tuple(arguments: Any) -> tuple[Any, ...]:
    """What a rule gets for the arguments of a function: for one argument, it alone."""
    return arguments if isinstance(arguments, tuple) else (arguments,)


def stop_gradients(outputs: Arrays, at: Positions) -> Arrays:
    """`outputs`, of which those `at` these positions have no derivative.

    Each is a node of its own behind: mx.vjp hands the cotangent of one that is the result of
    mx.stop_gradient itself to the next output.
    """
    return tuple([_stopped(y) if i in at else y for i, y in enumerate(outputs)])


def _stopped(y: mx.array) -> mx.array:
    still = lambda arrays, _, __=None: mx.zeros_like(as_tuple(arrays)[0])
    mapped = lambda arrays, axes: (as_tuple(arrays)[0], as_tuple(axes)[0])
    return custom_function(lambda y: y, still, still, mapped)(mx.stop_gradient(y))


class UsageTracker:
    """What the derivative of one call is asked for: NOTE [what is used]."""

    def __init__(self, made: CallPlan) -> None:
        self._made = made
        self._outputs: set[int] = set()
        self._primals: set[int] = set()

    def pop_usage(self) -> tuple[Positions, Positions]:
        """Primals that want gradients and outputs that have cotangents, since last asked."""
        made = self._made
        wanted = tuple([i for i in made.free if i in self._primals or i not in made.marked])
        given = tuple([i for i in made.smooth if i in self._outputs])
        self._outputs.clear()
        self._primals.clear()
        return wanted, given

    def track(self, outputs: Sequence[mx.array], args: Sequence[Any]) -> Arrays:
        """`outputs` of the call on `args`, whose use is noted."""
        behind = mx.stop_gradient(outputs[0])
        marks = [self._mark_argument(i, args[i], behind) for i in self._made.marked]
        return tuple([self._mark_output(i, y, marks) for i, y in enumerate(outputs)])

    def _mark_argument(self, i: int, x: mx.array, behind: mx.array) -> mx.array:
        def note(primals: Any, _: Any, __: Any) -> list[mx.array]:
            self._primals.add(i)
            return [mx.zeros_like(x) for x in primals]

        return custom_function(lambda *_: _MARK, note, lambda *_: _MARK, lambda *_: (_MARK, None))(
            x, behind
        )

    def _mark_output(self, i: int, y: mx.array, marks: Sequence[mx.array]) -> mx.array:
        def note(_: Any, cotangent: mx.array, __: Any) -> list[mx.array]:
            self._outputs.add(i)
            return [cotangent, *(_MARK for _ in marks)]

        def tangent(primals: Any, tangents: Any) -> mx.array:
            found = as_tuple(tangents)[0]
            return mx.zeros_like(as_tuple(primals)[0]) if found is None else found

        def mapped(arrays: Any, axes: Any) -> tuple[mx.array, int | None]:
            return as_tuple(arrays)[0], as_tuple(axes)[0]

        return custom_function(lambda y, *_: y, note, tangent, mapped)(y, *marks)


_MARK = mx.array(0.0)
