"""Calls of Ops on tensors, as `torch.autograd.Function` where derivatives may be computed.

NOTE [two classes]
A Function that `torch.func` can transform needs `setup_context`, which costs about 10 us a call.
Outside of transformations `_Plain` is used, which can also save residuals: in `torch.func`, a
gradient is always computed so that it can be differentiated again, from the primals alone.

NOTE [the derivative of an Op is an Op]
Derivatives are native calls of derived Ops, so that they can be differentiated and batched as the
first call was. The forward/backward pair is used only where nobody can ask for that.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from bridge._arrays.torch import in_dispatch_mode, transforming, unwrap_dead
from bridge._arrays.torch.upstream.call_sites import (
    check_not_tracing,
    clone_if_grad_disabled,
    in_forward_mode,
    is_dual,
    is_plain_autograd,
    legacy_vmap_level,
    unexecuted_inputs,
    unwrap_legacy_batched,
    wrap_legacy_batched,
)
from bridge._arrays.torch.upstream.compilers import dynamo_reads_caller, hide_from_dynamo
from bridge._core.captured_state import CapturedState, restored
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Execute
from bridge._core.pytree import scatter
from bridge._core.tracebacks import mark_entry_point, shorten_traceback, shortens_tracebacks
from bridge._lowering.torch import execute_lowered
from bridge._targets.torch.anomalies import check_gradients
from bridge._targets.torch.backward_plan import (
    ForwardPlan,
    ForwardPlans,
    forward_plans,
    plan_from_outputs,
)
from bridge._targets.torch.gradient_scaling import try_scale_saved
from bridge._targets.torch.saved_tensors import load_saved, save_for_backward


def call_op(op: Op, execute: Execute, *xs: Any) -> Arrays:
    """Call `op` on tensors under whatever transformations of torch there are."""
    return native_call(op, execute)(*xs)


def native_call(op: Op, execute: Execute) -> Callable[..., Arrays]:
    """Return `op` as a function of tensors under every transformation of torch."""
    plans, apply = forward_plans(op), _plain_apply(op.name)

    def call(*xs: Any) -> Arrays:
        if not is_plain_autograd():
            return _call_transformed(op, execute, xs)
        if torch.is_grad_enabled():
            xs = unwrap_dead(xs)
            for x in xs:
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    return apply(plans, execute, *xs)
        return execute(op, xs)

    return call


@functools.lru_cache(maxsize=1024)
def _plain_apply(name: str) -> Callable[..., Arrays]:
    """Return the engine's `apply`, which does not check for `torch.func` again."""
    engine: Any = super(torch.autograd.Function, _named_subclass(_Plain, name))
    return engine.apply


def _call_transformed(op: Op, execute: Execute, xs: tuple[Any, ...]) -> Arrays:
    """Call `op` where forward mode, `torch.func` or a tracer may take part."""
    if legacy_vmap_level() and (outputs := _call_legacy_batched(op, execute, xs)) is not None:
        return outputs
    if execute is not execute_lowered:
        check_not_tracing()
    if transforming():
        return _named_subclass(_Transformable, op.name).apply(
            op, _ExecuteWithState(execute, op.read_state()), *clone_if_grad_disabled(xs)
        )
    xs = unwrap_dead(xs)
    if (torch.is_grad_enabled() and _any_requires_grad(xs)) or (
        in_forward_mode() and _any_dual(xs)
    ):
        return _named_subclass(_Plain, op.name).apply(forward_plans(op), execute, *xs)
    return execute(op, xs)


def _call_legacy_batched(op: Op, execute: Execute, xs: Sequence[Any]) -> Arrays | None:
    """Return the outputs if one of `xs` is batched, else None: NOTE [the vmap of the engine]."""
    for level in range(legacy_vmap_level(), 0, -1):
        unwrapped = {
            i: inner
            for i, x in enumerate(xs)
            if (inner := unwrap_legacy_batched(x, level)) is not None
        }
        if unwrapped:
            axes = tuple(0 if i in unwrapped else None for i in range(len(xs)))
            size = len(next(iter(unwrapped.values())))
            inner_xs = [unwrapped.get(i, x) for i, x in enumerate(xs)]
            outputs = call_op(op.derive("vmap", axes, size), execute, *inner_xs)
            return tuple(wrap_legacy_batched(y, level) for y in outputs)
    return None


def _any_requires_grad(xs: Iterable[Any]) -> bool:
    for x in xs:  # noqa: SIM110, any() with a generator takes three times as long
        if isinstance(x, torch.Tensor) and x.requires_grad:
            return True
    return False


def _any_dual(xs: Iterable[Any]) -> bool:
    return any(isinstance(x, torch.Tensor) and is_dual(x) for x in xs)


@functools.lru_cache(maxsize=1024)
def _named_subclass(base: type, name: str) -> Any:
    """Return `base` under the name of the user's function, which `grad_fn` and profiles show."""
    return type(name, (base,), {})


class _Rules(torch.autograd.Function):
    """The derivatives of a call, from what `save_for_backward` put into its context."""

    @staticmethod
    @mark_entry_point
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        if dynamo_reads_caller():  # like `hide_from_dynamo`, which would cost one more call
            return torch.compiler.disable(_Rules.backward)(ctx, *cotangents)
        try:
            state = ctx.call[-1]
            if state is None:
                gradients, argnums = _compute_gradients(ctx, cotangents)
            else:
                with state.restored():
                    gradients, argnums = _compute_gradients(ctx, cotangents)
            # AOTAutograd enables the mode while it traces, where there are no values to check.
            if torch.is_anomaly_enabled() and not in_dispatch_mode():
                check_gradients(ctx.call[0].op, ctx, cotangents, gradients, argnums)
        except Exception as error:
            shorten_traceback(error)
            raise
        count = len(ctx.needs_input_grad) - 2
        if len(gradients) == count:
            return None, None, *gradients
        return None, None, *scatter(gradients, argnums, [None] * count)

    @staticmethod
    @hide_from_dynamo
    @shortens_tracebacks
    def jvp(ctx: Any, *tangents: Any) -> Any:
        plan, execute, others, state = ctx.call
        argnums = tuple(i for i, t in enumerate(tangents[2:]) if t is not None)
        input_tangents = [tangents[2 + i] for i in argnums]
        xs, _ = load_saved(ctx, plan, others)
        with restored(state):
            outputs = call_op(plan.op.derive("jvp", argnums), execute, *xs, *input_tangents)
        by_outnum = dict(zip(plan.differentiable_outnums, outputs, strict=True))
        return tuple(
            None if i in ctx.gradient_free_outnums else by_outnum[i] for i in plan.all_outnums
        )


def _compute_gradients(ctx: Any, cotangents: Sequence[Any]) -> tuple[Sequence[Any], Positions]:
    """Return the gradients of some primals, and the positions of these."""
    forward_plan, execute, others, _ = ctx.call
    outnums, needs_input_grad = forward_plan.all_outnums, ctx.needs_input_grad
    for c in cotangents:
        if c is None or c.is_sparse:
            outnums = tuple([i for i in outnums if cotangents[i] is not None])
            cotangents = [c.to_dense() if c.is_sparse else c for c in cotangents if c is not None]
            break
    if forward_plan.op.traits.knows_outputs:  # each gradient has points of its own
        needs_input_grad = _needed_now(ctx)
    plan = forward_plan.backward_plans[needs_input_grad, outnums]
    if forward_plan.pair is None and not others:
        xs = arguments = ctx.saved_tensors
    else:
        xs, arguments = load_saved(ctx, forward_plan, others)
    if plan.op is None:
        return [None] * len(plan.argnums), plan.argnums
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    if torch.is_grad_enabled() or not (is_plain_autograd() or _have_no_tangents(xs, cotangents)):
        vjp, primals = _differentiable_vjp(forward_plan, plan.argnums, outnums, (xs, arguments))
        return call_op(vjp, execute, *primals, *cotangents), plan.argnums
    if not plan.uses_residuals:
        return execute(plan.op, (*xs, *cotangents)), plan.argnums
    scaled = try_scale_saved(ctx, plan, arguments, cotangents[0])
    return scaled or execute(plan.op, (*arguments, *cotangents)), plan.argnums


def _differentiable_vjp(
    plan: ForwardPlan, argnums: Positions, outnums: Positions, saved: tuple[Any, Any]
) -> tuple[Op, Sequence[Any]]:
    """Return the Op of gradients that may be differentiated, and its arguments but cotangents."""
    xs, arguments = saved
    pair = plan.pair
    if pair and pair.strategy == "outputs" and pair.backward_from:
        # Outputs are values here, of which the derivatives know that they follow from primals.
        outputs = [y.detach() for y in arguments[len(xs) :]]
        backward = pair.backward_from(argnums, outnums)
        if backward is not None:
            return backward, [*arguments[: len(xs)], *outputs]
    return plan.op.derive("vjp", argnums, outnums), xs


def _needed_now(ctx: Any) -> tuple[bool, ...]:
    """Return `ctx.needs_input_grad` without what this backward pass does not ask for."""
    needed = list(ctx.needs_input_grad)
    if sum(needed) == 1:  # the one that it runs for
        return ctx.needs_input_grad
    tensors = [i for i in range(2, len(needed)) if i - 2 not in ctx.call[2]]
    for i in unexecuted_inputs(ctx, tensors):
        needed[i] = False
    return tuple(needed)


def _have_no_tangents(xs: Sequence[Any], cotangents: Sequence[Any]) -> bool:
    """Return True if forward mode alone is active, and none of these has a tangent."""
    return in_forward_mode() and not (transforming() or _any_dual(xs) or _any_dual(cotangents))


class _Plain(_Rules):
    """A call outside of `torch.func`: NOTE [two classes]."""

    @staticmethod
    def forward(ctx: Any, plans: ForwardPlans, execute: Execute, *xs: Any) -> Arrays:
        ctx.set_materialize_grads(False)
        state = None
        if plans.is_traced:
            plan = plans[ctx.needs_input_grad]
            outputs = execute(plan.forward, xs)
        else:
            state = plans.op.read_state()
            plan, outputs = _call_untraced(plans, execute, xs, ctx.needs_input_grad)
        pair, saved = plan.pair, ()
        if pair is not None:
            outputs, residuals = outputs[: pair.output_count], outputs[pair.output_count :]
            saved = (*[outputs[i] for i in pair.saved_outputs], *residuals)
        others = save_for_backward(ctx, plan, xs, outputs, saved)
        ctx.call = plan, execute, others, state
        return outputs


def _call_untraced(
    plans: ForwardPlans, execute: Execute, xs: Sequence[Any], needs_input_grad: tuple[bool, ...]
) -> tuple[ForwardPlan, Arrays]:
    """Call an Op whose outputs may not be known before; return its plan and its results."""
    op, traits = plans.op, plans.op.traits
    if traits.dependencies is None and traits.knows_outputs is None:
        outputs = execute(op, xs)
        return plan_from_outputs(op, outputs, needs_input_grad), outputs
    # A call that tells what the outputs are comes first: its pair would compute the same.
    is_known = traits.knows_outputs is None or traits.knows_outputs()
    results = None if is_known else execute(op, xs)
    plan = plans[needs_input_grad]
    return plan, execute(plan.forward, xs) if results is None else results


@dataclasses.dataclass(frozen=True, eq=False)
class _ExecuteWithState:
    """How an Op is executed, and what it captured before the call: NOTE [the state of a call]."""

    execute: Execute
    state: CapturedState | None


class _Transformable(_Rules):
    """A call under `torch.func`."""

    @staticmethod
    def forward(op: Op, executor: _ExecuteWithState, *xs: Any) -> Arrays:
        return executor.execute(op, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Arrays) -> None:
        ctx.set_materialize_grads(False)
        op, executor, *xs = inputs
        plan = (
            forward_plans(op)[False, False]
            if op.traits.dependencies
            else plan_from_outputs(op, output, (False, False))
        )
        pair = op.try_forward_backward((), plan.outnums) if op.traits.knows_outputs else None
        if pair:  # which saves outputs, known now
            plan = dataclasses.replace(plan, pair=pair)
        residuals = [output[i] for i in pair.saved_outputs] if pair else []
        others = save_for_backward(ctx, plan, xs, output, residuals)
        ctx.call = plan, executor.execute, others, executor.state

    @staticmethod
    @hide_from_dynamo
    @shortens_tracebacks
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        op, executor, *xs = args
        batched = op.derive("vmap", tuple(in_dims[2:]), info.batch_size)
        outputs = call_op(batched, executor.execute, *xs)
        return outputs, (0,) * len(outputs)
