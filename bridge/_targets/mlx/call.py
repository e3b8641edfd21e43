"""Calls of Ops as custom functions of MLX, with the rules of its transformations.

NOTE [a call has no values at first]
`mx.vmap` first runs a function on arrays without values, and then replaces its outputs by those of
the vmap rule. Until then the outputs are placeholders, which only have shapes. `mx.compile` passes
arrays without values too, but never calls that rule. If it is not recognized, its results are
placeholders, which raise when they are evaluated; zeros would be mistaken for results.

NOTE [what rules hold]
The graph of MLX holds the rules, and Python's garbage collector cannot see into it. So rules hold
no arrays of MLX: a rule that held an output would keep itself alive forever. Residuals are arrays
of the source, which are never copied to MLX. They are freed with the graph.
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
from bridge._core.pytree import scatter
from bridge._core.spec import batch_size, check_specs_unchanged
from bridge._core.tracebacks import shortens_tracebacks
from bridge._targets.mlx.compile_detection import is_compiling
from bridge._targets.mlx.gradient_plan import CallPlan, get_call_plan
from bridge._targets.mlx.residuals import BackwardCall, SavedForBackward
from bridge._targets.mlx.usage import UsageTracker, as_tuple, custom_function, stop_gradients


def call(
    op: Op,
    executor: Executor,
    *xs: Any,
    trailing_linear_count: int = 0,
    backward: BackwardCall | None = None,
) -> Arrays:
    """Call `op` as a custom function of MLX; return its outputs, arrays in MLX's graph.

    Args:
        op: The Op whose rules are those of the custom function.
        executor: What executes it.
        *xs: Its arguments: arrays of MLX, and constants.
        trailing_linear_count: How many of the last arguments it is linear in, if it is a
            derivative. Such a call saves no residuals.
        backward: What is executed instead of `op`, if its forward has saved residuals.
    """
    array_positions = tuple([i for i, x in enumerate(xs) if isinstance(x, mx.array)])
    plan = get_call_plan(op, xs, array_positions, trailing_linear_count)
    args_without_arrays = [None if isinstance(x, mx.array) else x for x in xs]
    arrays = [xs[i] for i in array_positions]
    transformed = transforming()
    usage = UsageTracker(plan) if transformed and plan.tracks_usage else None
    one = Call(plan, executor, args_without_arrays, backward, transformed, usage)
    if (
        not array_positions or not plan.output_specs
    ):  # MLX aborts over a custom function without outputs
        return one.outputs(*arrays)
    outputs = custom_function(one.outputs, one.vjp, one.jvp, one.vmap)(*arrays)
    tracked = usage.track(outputs, xs) if usage else tuple(outputs)
    return stop_gradients(tracked, plan.constant_outnums) if transformed else tracked


@dataclasses.dataclass(eq=False)
class Call:
    """One call of an Op: NOTE [what rules hold].

    Attributes:
        plan: What it shares with other calls of the Op.
        executor: What executes it.
        args_without_arrays: Its arguments, with `None` for arrays of MLX.
        backward_call: What is executed instead of its Op, if its forward has saved residuals.
        transformed: True if a transformation is under way, so that it may be differentiated.
        usage: What notes which of its gradients and outputs are used, if that is unknown.
        saved: The residuals that it has saved.
        state: What its function captured when it was called: NOTE [the state of a call].
    """

    plan: CallPlan
    executor: Executor
    args_without_arrays: Sequence[Any]
    backward_call: BackwardCall | None
    transformed: bool
    usage: UsageTracker | None
    saved: SavedForBackward | None = None
    state: CapturedState | None = None

    @releases_lock
    def outputs(self, *arrays: mx.array) -> Arrays:
        """Compute the outputs: NOTE [a call has no values at first]."""
        op, args = self.plan.op, self.plan.arguments(arrays, self.args_without_arrays)
        self.state = op.read_state()
        if self.backward_call:
            op, args = self.backward_call.op, self.backward_call.arguments(args)
        try:
            buffers = keeping_graph(lambda: _LEND(args)) if self.transformed else _LEND(args)
        except TracerError:
            return self._make_placeholders()
        saving = self.plan.saving_forward() if self.transformed else None
        if saving is None:
            return self._check_outputs(self.executor.execute(op, buffers))
        pair = saving.pair
        outputs, results = self.executor.execute_for_saving(
            pair.forward, buffers, pair.output_count
        )
        self.saved = SavedForBackward(saving, saving.read_saved(results))
        return self._check_outputs(outputs)

    def _make_placeholders(self) -> Arrays:
        """Make outputs without values, for `mx.vmap`; raise for `mx.compile`."""
        if is_compiling():
            raise NoValuesError(
                f"{self.plan.op.name} is not computed by MLX, so it cannot be a part of what "
                "mx.compile or mx.export_function record. Compile the functions around the call, "
                "and leave the call out."
            )
        return tuple(
            unmarked_placeholder(shape, dtype)
            for shape, dtype in self.plan.output_shapes_and_dtypes
        )

    @shortens_tracebacks
    @vjp_rule
    @releases_lock
    def vjp(self, primals: Any, cotangents: Sequence[mx.array], _: Any) -> Sequence[mx.array]:
        """Return the gradients of the primals, zeros where they are not used."""
        plan, xs = self.plan, as_tuple(primals)
        used = self.usage.pop_usage() if self.usage else (plan.argnums, plan.outnums)
        gradient_plan = plan.gradient_plan(*used)
        op, argnums, outnums = gradient_plan.op, gradient_plan.argnums, gradient_plan.outnums
        if op is None:
            return [mx.zeros_like(x) for x in xs]
        backward = self.saved.backward(argnums, outnums, plan.arity) if self.saved else None
        if backward is None and not plan.trailing_linear_count:
            plan.remember(gradient_plan)
        args = [*plan.arguments(xs, self.args_without_arrays), *self._cast(cotangents, outnums)]
        count = len(outnums)
        with restored(self.state):
            gradients = call(
                op, self.executor, *args, trailing_linear_count=count, backward=backward
            )
        if len(gradients) == len(xs):
            return gradients
        by_argnum = dict(zip(argnums, gradients, strict=True))
        arrays = zip(plan.array_positions, xs, strict=True)
        return [by_argnum[i] if i in by_argnum else mx.zeros_like(x) for i, x in arrays]

    @shortens_tracebacks
    @releases_lock
    def jvp(self, primals: Any, tangents: Any) -> list[mx.array]:
        """Return the tangents of the outputs, zeros where they have none."""
        plan, xs = self.plan, as_tuple(primals)
        by_argnum = dict(zip(plan.array_positions, as_tuple(tangents), strict=True))
        argnums = tuple([i for i in plan.argnums if by_argnum[i] is not None])
        zeros = [mx.zeros(shape, dtype) for shape, dtype in plan.output_shapes_and_dtypes]
        if not argnums:
            return zeros
        args = plan.arguments(xs, self.args_without_arrays)
        cast = [by_argnum[i].astype(args[i].dtype) for i in argnums]
        op = plan.op.derive("jvp", argnums)
        with restored(self.state):
            outputs = call(op, self.executor, *args, *cast, trailing_linear_count=len(argnums))
        for i, y in zip(plan.outnums, outputs, strict=True):
            if (y.shape, y.dtype) != plan.output_shapes_and_dtypes[i]:
                raise ArgumentError(
                    f"{op.name} returned {ARRAYS.spec(y)}, not {plan.output_specs[i]}."
                )
        return scatter(outputs, plan.outnums, zeros)

    @shortens_tracebacks
    @releases_lock
    def vmap(self, arrays: Any, axes: Any) -> tuple[list[mx.array], list[int]]:
        """Return the outputs of the call mapped over `axes` of its arrays, and their axes."""
        plan, xs, array_axes = self.plan, as_tuple(arrays), as_tuple(axes)
        all_axes = scatter(array_axes, plan.array_positions, [None] * plan.arity)
        op = plan.op.derive("vmap", tuple(all_axes), batch_size(xs, array_axes))
        args = plan.arguments(xs, self.args_without_arrays)
        outputs = call(op, self.executor, *args, trailing_linear_count=plan.trailing_linear_count)
        return list(outputs), [0] * len(outputs)

    def _cast(self, cotangents: Sequence[mx.array], outnums: Positions) -> list[mx.array]:
        """Return the cotangents at `outnums`, in the dtypes of their outputs."""
        return [cotangents[i].astype(self.plan.output_shapes_and_dtypes[i][1]) for i in outnums]

    def _check_outputs(self, outputs: Arrays) -> Arrays:
        """Return `outputs`; raise if they differ from the specs, which MLX does not check."""
        results = [(y.shape, y.dtype) for y in outputs]
        if results != self.plan.output_shapes_and_dtypes:
            check_specs_unchanged(
                [*map(ARRAYS.spec, outputs)], self.plan.output_specs, self.plan.op.name
            )
        return outputs


_LEND = ARRAYS.lender("cpu")
