"""The rules by which JAX transforms, compiles and executes calls of Ops.

NOTE [two primitives]
A call is one primitive, its derivative another, which is linear in tangents. JAX differentiates
a call to the derivative, and transposes the derivative to a call of the vjp; it maps both over
batches. Each rule binds one of the two again, so transformations nest in any order.

NOTE [residuals have no tangents]
The residuals that a call returns after the outputs of its Op are read only by its own derivatives.
These take the primals as well, and are differentiated as the vjp of the Op at the primals. So what
the residuals would contribute is counted there, once.

NOTE [results without elements]
XLA replaces an array without elements by a constant, and drops a call whose results are then
unused. If the function is rerun on every call, nothing would notice that other values lead to
elements, or raise. So such a call is marked as having an effect. XLA cannot partition effects: for
several devices the call is refused if sizes may depend on values.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bridge._arrays.jax.upstream.tracing import (
    device_count,
    hold_weakly,
    jit_is_disabled,
    mark_for_debug_nans,
    register_dead_code_rule,
    result_aval,
)
from bridge._core.errors import ArgumentError, NoRuleError
from bridge._core.invalid_values import describe_invalid
from bridge._core.op import Specs
from bridge._core.spec import ArraySpec, batch_size, differentiable_positions
from bridge._core.tracebacks import shortens_tracebacks
from bridge._lowering.jax import interpreter
from bridge._targets.jax.binding import bind_call, bind_derivative, call_p, linear_p
from bridge._targets.jax.calls import Call, Jvp, has_empty_output
from bridge._targets.jax.failures import raise_original_errors
from bridge._targets.jax.transport import lower
from bridge._targets.jax.transposes import transpose_call, transpose_derivative


def _output_avals(specs: Specs, operands: Sequence[Any]) -> list[Any]:
    return [result_aval(spec.shape, jnp.dtype(spec.dtype), operands) for spec in specs]


def _call_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, function: Call) -> Any:
    """Call, with residuals if that saves a rerun, then bind the derivative at these primals."""
    op, arity = function.op, function.arity
    argnums = tuple(i for i in range(arity) if _is_nonzero(tangents[i]))
    outnums = op.dependent_outputs(differentiable_positions(op.output_specs()), argnums)
    call = (
        function.with_residuals(argnums, outnums)
        if outnums and not function.residual_count
        else function
    )
    results = bind_call(call, primals[: call.operand_count])
    outputs = results[: len(op.output_specs())] if call is not function else results
    output_tangents: list[Any] = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
    if outnums:
        saved = (
            call.saving_forward
            if call.saving_forward and {*argnums} <= {*call.saving_forward.argnums}
            else None
        )
        residuals = saved.read_saved(results) if saved else ()
        linear = Jvp(op, function.callee, arity, argnums, saved)
        derivatives = bind_derivative(
            linear, [*primals[:arity], *residuals, *(tangents[i] for i in argnums)]
        )
        for i, derivative in zip(linear.differentiable_outputs, derivatives, strict=True):
            output_tangents[i] = derivative if i in outnums else output_tangents[i]
    return outputs, output_tangents


def _is_nonzero(tangent: Any) -> bool:
    """Return False if a tangent is known to be zero, as that of an integer is."""
    return type(tangent) is not ad.Zero and tangent.dtype != jax.dtypes.float0


def _linear_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, function: Jvp) -> Any:
    """Bind the derivative again; if primals move, differentiate the jvp as a call."""
    arity, first = function.arity, function.first_tangent
    if any(map(_is_nonzero, tangents[:arity])):
        jvp_call = Call(function.jvp_op, function.callee, arity + len(function.argnums))
        operands = [*primals[:arity], *primals[first:]]
        return _call_jvp(operands, [*tangents[:arity], *tangents[first:]], function=jvp_call)
    positions = tuple(i for i, tangent in enumerate(tangents[first:]) if _is_nonzero(tangent))
    outputs = bind_derivative(function, primals)
    if not positions:
        return outputs, [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
    linear, nonzero = function.select_tangents(positions), [tangents[first + i] for i in positions]
    return outputs, bind_derivative(linear, [*primals[:first], *nonzero])


def _call_batch(operands: Sequence[Any], axes: Sequence[Any], *, function: Call) -> Any:
    outputs = bind_call(function.vmap(tuple(axes), batch_size(operands, axes)), operands)
    return outputs, [0] * len(outputs)


def _linear_batch(operands: Sequence[Any], axes: Sequence[Any], *, function: Jvp) -> Any:
    # A tangent that is not mapped gets a gradient for each example of the batch: JAX sums them.
    size, first = batch_size(operands, axes), function.first_tangent
    tangents = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands[first:], axes[first:], strict=True)
    ]
    mapped = function.vmap((*axes[:first], *(0 for _ in tangents)), size)
    outputs = bind_derivative(mapped, [*operands[:first], *tangents])
    return outputs, [0] * len(outputs)


def _call_dce(used: Sequence[bool], eqn: Any) -> Any:
    """Drop unused residuals, as of a forward pass under `jax.checkpoint`, or an unused call."""
    function: Call = eqn.params["function"]
    count = len(function.op.output_specs())
    if not any(used) and not _checks_sizes(function):
        return [False] * len(eqn.invars), None
    if function.residual_count and not any(used[count:]):
        plain = Call(function.op, function.callee, function.arity)
        eqn = eqn.replace(params={"function": plain}, outvars=eqn.outvars[:count])
    return [True] * len(eqn.invars), eqn


def _checks_sizes(function: Call) -> bool:
    """Return True if a call without uses has to check sizes: NOTE [results without elements]."""
    return not function.output_specs() or (
        function.callee.root.traits.reruns and has_empty_output(function.op.output_specs())
    )


def _lower(ctx: Any, *operands: Any, function: Call | Jvp) -> Any:
    """Emit the operations of a graph, or else a call, which take some of the operands."""
    op, positions = function.executed_op, function.executed_operands
    xs = [operands[i] for i in positions]
    for actual, expected in zip(op.output_specs(), function.output_specs(), strict=True):
        if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
            raise ArgumentError(f"{function} returns {actual}, where {expected} was expected.")
    avals = [ctx.avals_in[i] for i in positions]
    call_ctx = dataclasses.replace(ctx, avals_in=avals)
    if op.traits.graph:
        return interpreter.lower(call_ctx, xs, op, op.traits.graph())
    if function.callee.root.traits.graph:
        raise NoRuleError(
            f'{function} has no graph that could be compiled. Let torch compute with lower="ffi".'
        )
    specs = tuple(ArraySpec(tuple(aval.shape), str(aval.dtype)) for aval in avals)
    effect = has_empty_output(function.output_specs()) and _can_have_effect(ctx, function)
    return lower(call_ctx, xs, op, function.callee, specs, effect=effect)


def _can_have_effect(ctx: Any, function: Call | Jvp) -> bool:
    """Return True if a call can have an effect; raise if it must and cannot.

    See NOTE [results without elements].
    """
    count = device_count(ctx)
    if count > 1 and function.callee.root.traits.reruns:
        shapes = ", ".join(map(str, function.output_specs()))
        raise ArgumentError(
            f"{function} returned ({shapes}) for example inputs, and is rerun on every call since "
            f"it looks at values. Where a result has no elements, XLA on {count} devices would not "
            "call it, and nothing would notice other sizes. Return results whose sizes follow from "
            "those of the arguments, a mask say, or call it on one device."
        )
    return count == 1


def _get_program(primitive: Primitive, function: Call | Jvp) -> Callable[..., list[Any]]:
    """Return one operation compiled on its own, for calls outside of `jax.jit`."""
    programs = function.callee.programs()
    if programs is None:  # a pullback, say, that outlives its function
        return _compile_orphan(primitive, function)
    key = primitive, function
    return programs.get(key) or programs.setdefault(key, _compile(primitive, function))


def _compile(primitive: Primitive, function: Call | Jvp) -> Callable[..., list[Any]]:
    def run(*operands: Any) -> list[Any]:
        return primitive.bind(*operands, function=function)

    run.__name__ = run.__qualname__ = repr(function)
    return jax.jit(mark_for_debug_nans(run))


_compile_orphan = functools.lru_cache(maxsize=64)(_compile)


def _execute(primitive: Primitive, *operands: Any, function: Call | Jvp) -> list[Any]:
    try:
        if jit_is_disabled():
            with jax.disable_jit(disable=False):
                return raise_original_errors(_get_program(primitive, function), operands)
        return raise_original_errors(_get_program(primitive, function), operands)
    except FloatingPointError as error:  # of jax.debug_nans and jax.debug_infs
        invalid = [f"operand {i}" for i, x in enumerate(operands) if not _is_finite(x)]
        frameworks = function.executed_op.framework, "jax"
        error.add_note(describe_invalid(repr(function), frameworks, invalid))
        raise


def _is_finite(x: Any) -> bool:
    inexact = jnp.issubdtype(x.dtype, jnp.inexact)
    return not inexact or bool(jnp.isfinite(x).all())


def _register() -> None:
    abstract_eval = lambda *operands, function: _output_avals(function.output_specs(), operands)
    rules = {
        call_p: (_call_jvp, _call_batch, _lower),
        linear_p: (_linear_jvp, _linear_batch, _lower),
    }
    for primitive, (jvp, batch, lowering) in rules.items():
        primitive.multiple_results = True
        primitive.def_impl(functools.partial(_execute, primitive))
        primitive.def_abstract_eval(abstract_eval)
        ad.primitive_jvps[primitive] = shortens_tracebacks(jvp)
        batching.primitive_batchers[primitive] = shortens_tracebacks(batch)
        mlir.register_lowering(primitive, shortens_tracebacks(lowering), cacheable=False)
    ad.primitive_transposes[call_p] = shortens_tracebacks(transpose_call)
    ad.primitive_transposes[linear_p] = shortens_tracebacks(transpose_derivative)
    register_dead_code_rule(call_p, _call_dce)
    hold_weakly(Call, Jvp)


_register()
