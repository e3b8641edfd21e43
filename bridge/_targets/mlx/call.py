"""Calls of Ops as custom functions of MLX, with the rules of its transformations.

NOTE [a call has no values at first]
Within `mx.vmap` a function is run on arrays without values, and what the rule for batches returns
takes the place of its outputs afterwards. Until then they are placeholders, which only have
shapes. `mx.compile` gives no values either, but never calls that rule. Where it is not recognized,
whoever evaluates its results meets a placeholder, which raises; zeros would be taken for results.

NOTE [what rules hold]
The graph of MLX holds the rules, and Python's garbage collector does not see it. So rules hold
no arrays of MLX: with an output they would keep themselves alive forever. Residuals are arrays of
the function's framework, which were never copied to MLX. They go when the graph goes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import (
    ARRAYS as ARRAYS,
    TracerError,
    keeping_graph,
    releases_lock,
    transforming,
    unmarked_placeholder,
    vjp_rule,
)
from bridge._core.captured_state import CapturedState, restored
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Executor
from bridge._core.pytree import replace_at
from bridge._core.spec import check_specs_unchanged
from bridge._core.tracebacks import shortens_tracebacks
from bridge._targets.mlx.compile_detection import is_compiling
from bridge._targets.mlx.gradient_plan import CallPlan, call_plan
from bridge._targets.mlx.residuals import BackwardCall, SavedForBackward
from bridge._targets.mlx.usage import UsageTracker, as_tuple, custom_function, stop_gradients


def call(
    op: Op, runner: Executor, *xs: Any, linear: int = 0, second: BackwardCall | None = None
) -> Arrays:
    """The outputs of `op` in the graph of MLX.

    Args:
        op: What the call means: its rules are those of the call.
        runner: What evaluates it.
        *xs: Its arguments: arrays of MLX, and constants.
        linear: In how many of the last ones it is linear, if it is a derivative. Such calls keep
            nothing for their own.
        second: What is run instead, if its first half has been run.
    """
    at = tuple([i for i, x in enumerate(xs) if isinstance(x, mx.array)])
    made = call_plan(op, xs, at, linear)
    rest = [None if isinstance(x, mx.array) else x for x in xs]
    arrays = [xs[i] for i in at]
    transformed = transforming()
    uses = UsageTracker(made) if transformed and made.tracks_usage else None
    one = Call(made, runner, rest, second, transformed, uses)
    if not at or not made.specs:  # MLX ends the process over a function without outputs
        return one.outputs(*arrays)
    outputs = custom_function(one.outputs, one.vjp, one.jvp, one.vmap)(*arrays)
    found = uses.track(outputs, xs) if uses else tuple(outputs)
    return stop_gradients(found, made.unrecorded) if transformed else found


@dataclasses.dataclass(eq=False)
class Call:
    """One call of an Op: NOTE [what rules hold].

    Attributes:
        plan: What it has in common with others.
        runner: What evaluates it.
        other_args: Its arguments, with `None` for arrays of MLX.
        second: What is run instead, if any.
        transformed: Whether a derivative may be asked for.
        usage: What it is asked for, where that has to be found out.
        saved: What it has kept for its derivative.
        state: What its function captured when it was called: NOTE [the state of a call].
    """

    plan: CallPlan
    runner: Executor
    other_args: Sequence[Any]
    second: BackwardCall | None
    transformed: bool
    usage: UsageTracker | None
    saved: SavedForBackward | None = None
    state: CapturedState | None = None

    @releases_lock
    def outputs(self, *arrays: mx.array) -> Arrays:
        """The values: NOTE [a call has no values at first]."""
        op, row = self.plan.op, self.plan.arguments(arrays, self.other_args)
        self.state = op.read_state()
        if self.second:
            op, row = self.second.op, self.second.arguments(row)
        try:
            row = keeping_graph(lambda: _LEND(row)) if self.transformed else _LEND(row)
        except TracerError:
            return self._placeholders()
        halves = self.plan.saving_forward() if self.transformed else None
        if halves is None:
            return self._checked(self.runner.execute(op, row))
        split = halves.split
        outputs, at_home = self.runner.execute_and_save(split.forward, row, split.output_count)
        self.saved = halves.save(at_home)
        return self._checked(outputs)

    def _placeholders(self) -> Arrays:
        if is_compiling():
            raise NoValuesError(
                f"{self.plan.op.name} is not computed by MLX, so it cannot be a part of what "
                "mx.compile or mx.export_function record. Compile the functions around the call, "
                "and leave the call out."
            )
        return tuple(unmarked_placeholder(shape, dtype) for shape, dtype in self.plan.results)

    @shortens_tracebacks
    @vjp_rule
    @releases_lock
    def vjp(self, primals: Any, cotangents: Sequence[mx.array], _: Any) -> Sequence[mx.array]:
        """The gradients of the primals."""
        made, xs = self.plan, as_tuple(primals)
        way = made.gradient_plan(
            *(self.usage.pop_usage() if self.usage else (made.free, made.smooth))
        )
        if way.op is None:
            return [mx.zeros_like(x) for x in xs]
        second = self.saved.backward(way.argnums, way.outnums, made.arity) if self.saved else None
        if second is None and not made.linear:
            made.remember(way)
        row = [*made.arguments(xs, self.other_args), *self._alike(cotangents, way.outnums)]
        with restored(self.state):
            found = call(way.op, self.runner, *row, linear=len(way.outnums), second=second)
        if len(found) == len(xs):
            return found
        gradients = dict(zip(way.argnums, found, strict=True))
        at = zip(made.at, xs, strict=True)
        return [gradients[i] if i in gradients else mx.zeros_like(x) for i, x in at]

    @shortens_tracebacks
    @releases_lock
    def jvp(self, primals: Any, tangents: Any) -> list[mx.array]:
        """The tangents of the outputs."""
        made, xs = self.plan, as_tuple(primals)
        directions = dict(zip(made.at, as_tuple(tangents), strict=True))
        given = tuple([i for i in made.free if directions[i] is not None])
        still = [mx.zeros(shape, dtype) for shape, dtype in made.results]
        if not given:
            return still
        row = made.arguments(xs, self.other_args)
        moving = [directions[i].astype(row[i].dtype) for i in given]
        op = made.op.derive("jvp", given)
        with restored(self.state):
            moved = call(op, self.runner, *row, *moving, linear=len(given))
        for i, y in zip(made.smooth, moved, strict=True):
            if (y.shape, y.dtype) != made.results[i]:
                raise ArgumentError(f"{op.name} returned {ARRAYS.spec(y)}, not {made.specs[i]}.")
        return replace_at(moved, made.smooth, still)

    @shortens_tracebacks
    @releases_lock
    def vmap(self, arrays: Any, axes: Any) -> tuple[list[mx.array], list[int]]:
        """The outputs of the call mapped over `axes` of its arguments."""
        made, xs, mapped = self.plan, as_tuple(arrays), as_tuple(axes)
        size = next(x.shape[a] for x, a in zip(xs, mapped, strict=True) if a is not None)
        over = replace_at(mapped, made.at, [None] * made.arity)
        op = made.op.derive("vmap", tuple(over), size)
        outputs = call(op, self.runner, *made.arguments(xs, self.other_args), linear=made.linear)
        return list(outputs), [0] * len(outputs)

    def _alike(self, cotangents: Sequence[mx.array], outnums: Positions) -> list[mx.array]:
        """The cotangents at `given`, in the dtypes of their outputs."""
        return [cotangents[i].astype(self.plan.results[i][1]) for i in outnums]

    def _checked(self, outputs: Arrays) -> Arrays:
        """`outputs`, which MLX would take whatever they are."""
        found = [(y.shape, y.dtype) for y in outputs]
        if found != self.plan.results:
            check_specs_unchanged([*map(ARRAYS.spec, outputs)], self.plan.specs, self.plan.op.name)
        return outputs


_LEND = ARRAYS.lender("cpu")
