"""Which gradients and outputs of a call its derivative uses; MLX does not tell the vjp rule.

NOTE [what is used]
The vjp rule gets zeros for outputs that are not used, and zero times infinity is not a gradient. It
must also return the gradients of all arguments, although some may have none, such as the running
mean of a batch norm. But MLX only calls the rules of functions on a path from a differentiated
argument to a used output. So each output passes through an identity function, whose rule notes that
the output is used. The identity also takes a marker of each argument. The marker depends on the
argument and, behind a stop_gradient, on the call. So its rule runs before the rule of the call and
after the rules of the outputs, and notes that the gradient of the argument is used.

This costs as much as a small call, so only what is unknown is tracked. The rule of a call is not
called unless a gradient is used, so a single primal needs no marker. Nor do cotangents and tangents
of a derivative, which is linear in them: their gradients come with the others.
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
    """Make a custom function of MLX of `fn` and these rules."""
    function = mx.custom_function(fn)
    function.vjp(vjp)
    function.jvp(jvp)
    function.vmap(vmap)
    return function


def as_tuple(arguments: Any) -> tuple[Any, ...]:
    """Return the arguments of a rule as a tuple: MLX passes a single one as it is."""
    return arguments if isinstance(arguments, tuple) else (arguments,)


def stop_gradients(outputs: Arrays, at: Positions) -> Arrays:
    """Return `outputs`, with no derivative of those `at` these positions.

    Each gets a node of its own after the mx.stop_gradient: if an output is the result of
    mx.stop_gradient itself, mx.vjp gives its cotangent to the next output.
    """
    return tuple([_stop_gradient(y) if i in at else y for i, y in enumerate(outputs)])


def _stop_gradient(y: mx.array) -> mx.array:
    zeros = lambda arrays, _, __=None: mx.zeros_like(as_tuple(arrays)[0])
    vmap = lambda arrays, axes: (as_tuple(arrays)[0], as_tuple(axes)[0])
    return custom_function(lambda y: y, zeros, zeros, vmap)(mx.stop_gradient(y))


class UsageTracker:
    """Notes which gradients and outputs of one call are used: NOTE [what is used]."""

    def __init__(self, plan: CallPlan) -> None:
        self._plan = plan
        self._outnums: set[int] = set()
        self._argnums: set[int] = set()

    def pop_usage(self) -> tuple[Positions, Positions]:
        """Return and forget the argnums of used gradients and the outnums of used outputs."""
        plan, used = self._plan, self._argnums
        argnums = tuple([i for i in plan.argnums if i in used or i not in plan.tracked_argnums])
        outnums = tuple([i for i in plan.outnums if i in self._outnums])
        self._outnums.clear()
        self._argnums.clear()
        return argnums, outnums

    def track(self, outputs: Sequence[mx.array], args: Sequence[Any]) -> Arrays:
        """Return the `outputs` of the call on `args`, such that their use is noted."""
        output = mx.stop_gradient(outputs[0])
        markers = [self._make_marker(i, args[i], output) for i in self._plan.tracked_argnums]
        return tuple([self._track_output(i, y, markers) for i, y in enumerate(outputs)])

    def _make_marker(self, i: int, x: mx.array, output: mx.array) -> mx.array:
        """Make a scalar that depends on argument `x` and on the call, by its `output`."""

        def vjp(primals: Any, _: Any, __: Any) -> list[mx.array]:
            self._argnums.add(i)
            return [mx.zeros_like(x) for x in primals]

        return custom_function(lambda *_: _ZERO, vjp, lambda *_: _ZERO, lambda *_: (_ZERO, None))(
            x, output
        )

    def _track_output(self, i: int, y: mx.array, markers: Sequence[mx.array]) -> mx.array:
        """Return output `y`, passed through an identity function whose rule notes its use."""

        def vjp(_: Any, cotangent: mx.array, __: Any) -> list[mx.array]:
            self._outnums.add(i)
            return [cotangent, *(_ZERO for _ in markers)]

        def jvp(primals: Any, tangents: Any) -> mx.array:
            tangent = as_tuple(tangents)[0]
            return mx.zeros_like(as_tuple(primals)[0]) if tangent is None else tangent

        def vmap(arrays: Any, axes: Any) -> tuple[mx.array, int | None]:
            return as_tuple(arrays)[0], as_tuple(axes)[0]

        return custom_function(lambda y, *_: y, vjp, jvp, vmap)(y, *markers)


_ZERO = mx.array(0.0)
