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
    dtype_of,
    in_rule,
    placeholder,
    transforming,
)
from bridge._errors import ArgumentError, NoValuesError
from bridge._op import Arrays, Op, Positions
from bridge._protocols import Runner
from bridge._targets.mlx._halves import Kept, Second, halves, reached, remember, smooth, specs
from bridge._targets.mlx._recording import recording
from bridge._targets.mlx._uses import Uses, custom, every, everything
from bridge._tree import spread


def call(
    op: Op, runner: Runner, *xs: Any, derived: bool = False, second: Second | None = None
) -> Arrays:
    """The outputs of `op` in the graph of MLX.

    Args:
        op: What the call means: its rules are those of the call.
        runner: What evaluates it.
        *xs: Its arguments: arrays of MLX, and constants.
        derived: Whether it is a derivative, which keeps nothing for its own.
        second: What is run instead, if it is a derivative whose first half has been run.
    """
    at = tuple([i for i, x in enumerate(xs) if isinstance(x, mx.array)])
    row = [None if isinstance(x, mx.array) else x for x in xs]
    arrays = [xs[i] for i in at]
    free = tuple([i for i, x in zip(at, arrays, strict=True) if ARRAYS.spec(x).differentiable])
    uses = Uses() if transforming() else None
    made = Call(op, runner, row, at, free, derived, second, uses)
    if not at or not specs(op):  # MLX ends the process over a function without outputs
        return made.outputs(*arrays)
    outputs = custom(made.outputs, made.vjp, made.jvp, made.vmap)(*arrays)
    if uses is None or made.simple:
        return tuple(outputs)
    return uses.watched(outputs, {i: xs[i] for i in free})


@dataclasses.dataclass(eq=False)
class Call:
    """One call of an Op: NOTE [what rules hold].

    Attributes:
        op: What it means.
        runner: What evaluates it.
        row: Its arguments, with `None` for arrays of MLX.
        at: Positions of these.
        free: Positions of those that may have gradients.
        derived: Whether it is a derivative.
        second: What is run instead, if any.
        uses: What its derivative is asked for, `None` where nothing is transformed.
        kept: What it has kept for its derivative.
    """

    op: Op
    runner: Runner
    row: Sequence[Any]
    at: Positions
    free: Positions
    derived: bool
    second: Second | None
    uses: Uses | None
    kept: Kept | None = None

    @property
    def simple(self) -> bool:
        """Whether the rule for gradients is only called if all is used."""
        return len(self.at) == len(specs(self.op)) == 1

    def outputs(self, *arrays: mx.array) -> Arrays:
        """The values: NOTE [a call has no values at first]."""
        op, row = self.op, spread(arrays, self.at, self.row)
        if self.second:
            op, row = self.second.op, self.second.row(row)
        try:
            row = _LEND(row)
        except TracerError:
            return self._placeholders()
        made = halves(op, self.free) if self.uses and not self.derived else None
        if made is None:
            return self._checked(self.runner.evaluate(op, row))
        split = made.split
        outputs, at_home = self.runner.evaluate_and_keep(split.forward, row, split.outputs)
        self.kept = made.kept(at_home)
        return self._checked(outputs)

    def _placeholders(self) -> Arrays:
        if recording():
            raise NoValuesError(
                f"{self.op.name} is not computed by MLX, so it cannot be a part of what mx.compile "
                "or mx.export_function record. Compile the functions around the call, and leave "
                "the call out."
            )
        return tuple(placeholder(spec.shape, dtype_of(spec.dtype)) for spec in specs(self.op))

    @in_rule
    def vjp(self, primals: Any, cotangents: Sequence[mx.array], _: Any) -> list[mx.array]:
        """The gradients of the primals."""
        xs = every(primals)
        watched = None if self.simple else self.uses
        uses = watched.taken() if watched else everything(smooth(self.op), self.free)
        given = tuple([i for i in smooth(self.op) if i in uses.outputs])
        wanted = tuple([i for i in self.free if i in uses.primals])
        needed = reached(self.op, given, wanted)
        gradients = [mx.zeros_like(x) for x in xs]
        if not given or not needed:
            return gradients
        second = self.kept.second(needed, given, len(self.row)) if self.kept else None
        if second is None:
            remember(self.op, needed, given)
        op = self.op.derive("vjp", needed, given)
        row = [*spread(xs, self.at, self.row), *self._alike(cotangents, given)]
        found = call(op, self.runner, *row, derived=True, second=second)
        return spread(found, [self.at.index(i) for i in needed], gradients)

    def jvp(self, primals: Any, tangents: Any) -> list[mx.array]:
        """The tangents of the outputs."""
        xs, directions = every(primals), dict(zip(self.at, every(tangents), strict=True))
        given = tuple([i for i in self.free if directions[i] is not None])
        still = [mx.zeros(spec.shape, dtype_of(spec.dtype)) for spec in specs(self.op)]
        if not given:
            return still
        row = spread(xs, self.at, self.row)
        moving = [directions[i].astype(row[i].dtype) for i in given]
        moved = call(self.op.derive("jvp", given), self.runner, *row, *moving, derived=True)
        return spread(moved, smooth(self.op), still)

    def vmap(self, arrays: Any, axes: Any) -> tuple[list[mx.array], list[int]]:
        """The outputs of the call mapped over `axes` of its arguments."""
        xs, mapped = every(arrays), every(axes)
        size = next(x.shape[a] for x, a in zip(xs, mapped, strict=True) if a is not None)
        over = spread(mapped, self.at, [None] * len(self.row))
        op = self.op.derive("vmap", tuple(over), size)
        row = spread(xs, self.at, self.row)
        outputs = call(op, self.runner, *row, derived=self.derived)
        return list(outputs), [0] * len(outputs)

    def _alike(self, cotangents: Sequence[mx.array], given: Positions) -> list[mx.array]:
        """The cotangents at `given`, in the dtypes of their outputs."""
        outputs = specs(self.op)
        return [cotangents[i].astype(dtype_of(outputs[i].dtype)) for i in given]

    def _checked(self, outputs: Arrays) -> Arrays:
        """`outputs`, which MLX would take whatever they are."""
        found = [(y.shape, ARRAYS.spec(y).dtype) for y in outputs]
        expected = [(spec.shape, spec.dtype) for spec in specs(self.op)]
        if found != expected:
            said = [", ".join(f"{d}{list(s)}" for s, d in pairs) for pairs in (found, expected)]
            raise ArgumentError(f"{self.op.name} returned ({said[0]}), not ({said[1]}) as it said.")
        return outputs


_LEND = ARRAYS.lender("cpu")
