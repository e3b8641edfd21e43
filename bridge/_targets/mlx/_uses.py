"""What a derivative of a call is asked for, which MLX does not tell its rule.

NOTE [what is used]
The rule gets zeros for outputs that nobody used, where 0 times what is infinite is no gradient,
and is to give the gradients of all arguments, though some may have none, as the running mean of a
batch norm. But MLX only calls the rules of what lies between the outputs that are used and the
arguments that are differentiated. So each output passes through a function that does nothing to
it, whose rule notes that it is used. That function also takes a mark of each argument, which
depends on the argument and, without a derivative, on the call: its rule notes that the argument is
wanted, and comes before the rule of the call, after those of the outputs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._op import Arrays, Positions


def custom(
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


def every(arguments: Any) -> tuple[Any, ...]:
    """What a rule gets for the arguments of a function: for one argument, it alone."""
    return arguments if isinstance(arguments, tuple) else (arguments,)


@dataclasses.dataclass(frozen=True)
class Uses:
    """Positions of outputs that have cotangents, and of primals that want gradients."""

    outputs: set[int] = dataclasses.field(default_factory=set)
    primals: set[int] = dataclasses.field(default_factory=set)

    def taken(self) -> "Uses":
        """What was noted since this was last asked."""
        found = Uses({*self.outputs}, {*self.primals})
        self.outputs.clear()
        self.primals.clear()
        return found

    def watched(self, outputs: Arrays, primals: dict[int, mx.array]) -> Arrays:
        """`outputs` of a call, whose use is noted: NOTE [what is used]."""
        behind = mx.stop_gradient(outputs[0])
        marks = [self._mark(i, x, behind) for i, x in primals.items()]
        return tuple([self._passed(i, y, marks) for i, y in enumerate(outputs)])

    def _mark(self, i: int, x: mx.array, behind: mx.array) -> mx.array:
        def note(primals: Any, _: Any, __: Any) -> list[mx.array]:
            self.primals.add(i)
            return [mx.zeros_like(x) for x in primals]

        return custom(lambda *_: _MARK, note, lambda *_: _MARK, lambda *_: (_MARK, None))(x, behind)

    def _passed(self, i: int, y: mx.array, marks: Sequence[mx.array]) -> mx.array:
        def note(_: Any, cotangent: mx.array, __: Any) -> list[mx.array]:
            self.outputs.add(i)
            return [cotangent, *(_MARK for _ in marks)]

        def tangent(primals: Any, tangents: Any) -> mx.array:
            found = every(tangents)[0]
            return mx.zeros_like(every(primals)[0]) if found is None else found

        def mapped(arrays: Any, axes: Any) -> tuple[mx.array, int | None]:
            return every(arrays)[0], every(axes)[0]

        return custom(lambda y, *_: y, note, tangent, mapped)(y, *marks)


_MARK = mx.array(0.0)


def everything(outputs: Positions, primals: Positions) -> Uses:
    """All that may be used, where nothing is watched."""
    return Uses({*outputs}, {*primals})
