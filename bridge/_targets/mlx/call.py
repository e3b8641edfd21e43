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
    FACE as ARRAYS,
    TracerError,
    in_rule,
    remembering,
    rested,
    transforming,
    unmarked,
)
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Runner
from bridge._core.pytree import spread
from bridge._core.spec import check_same
from bridge._core.tracebacks import shortened
from bridge._targets.mlx.compile_detection import recording
from bridge._targets.mlx.gradient_plan import Recipe, recipe
from bridge._targets.mlx.residuals import Kept, Second
from bridge._targets.mlx.usage import Uses, custom, every


def call(op: Op, runner: Runner, *xs: Any, linear: int = 0, second: Second | None = None) -> Arrays:
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
    made = recipe(op, xs, at, linear)
    rest = [None if isinstance(x, mx.array) else x for x in xs]
    arrays = [xs[i] for i in at]
    transformed = transforming()
    uses = Uses(made) if transformed and made.watched else None
    one = Call(made, runner, rest, second, transformed, uses)
    if not at or not made.specs:  # MLX ends the process over a function without outputs
        return one.outputs(*arrays)
    outputs = custom(one.outputs, one.vjp, one.jvp, one.vmap)(*arrays)
    return uses.watching(outputs, xs) if uses else tuple(outputs)


@dataclasses.dataclass(eq=False)
class Call:
    """One call of an Op: NOTE [what rules hold].

    Attributes:
        made: What it has in common with others.
        runner: What evaluates it.
        rest: Its arguments, with `None` for arrays of MLX.
        second: What is run instead, if any.
        transformed: Whether a derivative may be asked for.
        uses: What it is asked for, where that has to be found out.
        kept: What it has kept for its derivative.
    """

    made: Recipe
    runner: Runner
    rest: Sequence[Any]
    second: Second | None
    transformed: bool
    uses: Uses | None
    kept: Kept | None = None

    @rested
    def outputs(self, *arrays: mx.array) -> Arrays:
        """The values: NOTE [a call has no values at first]."""
        op, row = self.made.op, self.made.row(arrays, self.rest)
        if self.second:
            op, row = self.second.op, self.second.row(row)
        try:
            row = remembering(lambda: _LEND(row)) if self.transformed else _LEND(row)
        except TracerError:
            return self._placeholders()
        halves = self.made.halves() if self.transformed else None
        if halves is None:
            return self._checked(self.runner.evaluate(op, row))
        split = halves.split
        outputs, at_home = self.runner.evaluate_and_keep(split.forward, row, split.outputs)
        self.kept = halves.kept(at_home)
        return self._checked(outputs)

    def _placeholders(self) -> Arrays:
        if recording():
            raise NoValuesError(
                f"{self.made.op.name} is not computed by MLX, so it cannot be a part of what "
                "mx.compile or mx.export_function record. Compile the functions around the call, "
                "and leave the call out."
            )
        return tuple(unmarked(shape, dtype) for shape, dtype in self.made.results)

    @shortened
    @in_rule
    @rested
    def vjp(self, primals: Any, cotangents: Sequence[mx.array], _: Any) -> Sequence[mx.array]:
        """The gradients of the primals."""
        made, xs = self.made, every(primals)
        way = made.way(*(self.uses.taken() if self.uses else (made.free, made.smooth)))
        if way.op is None:
            return [mx.zeros_like(x) for x in xs]
        second = self.kept.second(way.needed, way.given, made.arity) if self.kept else None
        if second is None and not made.linear:
            made.remember(way)
        row = [*made.row(xs, self.rest), *self._alike(cotangents, way.given)]
        found = call(way.op, self.runner, *row, linear=len(way.given), second=second)
        if len(found) == len(xs):
            return found
        gradients = dict(zip(way.needed, found, strict=True))
        at = zip(made.at, xs, strict=True)
        return [gradients[i] if i in gradients else mx.zeros_like(x) for i, x in at]

    @shortened
    @rested
    def jvp(self, primals: Any, tangents: Any) -> list[mx.array]:
        """The tangents of the outputs."""
        made, xs = self.made, every(primals)
        directions = dict(zip(made.at, every(tangents), strict=True))
        given = tuple([i for i in made.free if directions[i] is not None])
        still = [mx.zeros(shape, dtype) for shape, dtype in made.results]
        if not given:
            return still
        row = made.row(xs, self.rest)
        moving = [directions[i].astype(row[i].dtype) for i in given]
        op = made.op.derive("jvp", given)
        moved = call(op, self.runner, *row, *moving, linear=len(given))
        for i, y in zip(made.smooth, moved, strict=True):
            if (y.shape, y.dtype) != made.results[i]:
                raise ArgumentError(f"{op.name} returned {ARRAYS.spec(y)}, not {made.specs[i]}.")
        return spread(moved, made.smooth, still)

    @shortened
    @rested
    def vmap(self, arrays: Any, axes: Any) -> tuple[list[mx.array], list[int]]:
        """The outputs of the call mapped over `axes` of its arguments."""
        made, xs, mapped = self.made, every(arrays), every(axes)
        size = next(x.shape[a] for x, a in zip(xs, mapped, strict=True) if a is not None)
        over = spread(mapped, made.at, [None] * made.arity)
        op = made.op.derive("vmap", tuple(over), size)
        outputs = call(op, self.runner, *made.row(xs, self.rest), linear=made.linear)
        return list(outputs), [0] * len(outputs)

    def _alike(self, cotangents: Sequence[mx.array], given: Positions) -> list[mx.array]:
        """The cotangents at `given`, in the dtypes of their outputs."""
        return [cotangents[i].astype(self.made.results[i][1]) for i in given]

    def _checked(self, outputs: Arrays) -> Arrays:
        """`outputs`, which MLX would take whatever they are."""
        found = [(y.shape, y.dtype) for y in outputs]
        if found != self.made.results:
            check_same([*map(ARRAYS.spec, outputs)], self.made.specs, self.made.op.name)
        return outputs


_LEND = ARRAYS.lender("cpu")
