"""Ops as operations of JAX, with the rules of its transformations.

NOTE [two primitives]
A call is one operation, its derivative another, which is linear in tangents. JAX differentiates
a call to the derivative, and transposes the derivative to a call of the vjp; it maps both over
batches. What a rule returns is again one of the two, so transformations nest in any order.

NOTE [residuals have no tangents]
Outputs that a call has besides those of its Op feed nothing but its own derivatives, which take
the primals as well, and whose own derivatives are those of the vjp of the Op at the primals. So
what the residuals would contribute is counted there, once.

NOTE [results without elements]
XLA replaces an array without elements by a constant, and drops a call that then has no use. Nothing
would notice that the values of a function that runs anew ask for elements, or raise, so such a call
is marked as one with an effect. XLA cannot partition these: for several devices it is refused where
sizes may follow from values.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bridge._core.errors import ArgumentError, NoRuleError
from bridge._core.op import Positions, Specs
from bridge._core.spec import ArraySpec
from bridge._core.tracebacks import shortens_tracebacks
from bridge._lowering.jax import interpreter
from bridge._targets.jax.binding import bind_call, bind_derivative, call_p, linear_p
from bridge._targets.jax.calls import Call, Linear, differentiable, has_empty_output
from bridge._targets.jax.failures import raise_original_errors
from bridge._targets.jax.internals import (
    device_count,
    hold_weakly,
    jit_is_disabled,
    register_dead_code_rule,
    result_aval,
    with_argument_names,
)
from bridge._targets.jax.transport import lower
from bridge._targets.jax.transposes import transpose_call, transpose_derivative


def _results(specs: Specs, operands: Sequence[Any]) -> list[Any]:
    return [result_aval(spec.shape, jnp.dtype(spec.dtype), operands) for spec in specs]


def _call_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, function: Call) -> Any:
    op, arity = function.op, function.arity
    moving = tuple(i for i in range(arity) if _moves(tangents[i]))
    flows = tuple(i for i in differentiable(op.output_specs()) if op.dependent_primals([i], moving))
    made = (
        function.with_residuals(moving, flows)
        if flows and not function.residual_count
        else function
    )
    results = bind_call(made, primals[: made.operand_count])
    outputs = results[: len(op.output_specs())] if made is not function else results
    moved: list[Any] = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
    if flows:
        kept = made.saved if made.saved and {*moving} <= {*made.saved.argnums} else None
        extras = kept.read_saved(results) if kept else ()
        linear = Linear(op, function.site, arity, moving, kept)
        found = bind_derivative(linear, [*primals[:arity], *extras, *(tangents[i] for i in moving)])
        for i, tangent in zip(linear.differentiable_outputs, found, strict=True):
            moved[i] = tangent if i in flows else moved[i]
    return outputs, moved


def _moves(tangent: Any) -> bool:
    """Whether a tangent is neither known to be zero nor that of an integer."""
    return type(tangent) is not ad.Zero and tangent.dtype != jax.dtypes.float0


def _linear_jvp(primals: Sequence[Any], tangents: Sequence[Any], *, function: Linear) -> Any:
    arity, first = function.arity, function.first_tangent
    if any(map(_moves, tangents[:arity])):
        whole = Call(function.op_of_primals, function.site, arity + len(function.argnums))
        operands = [*primals[:arity], *primals[first:]]
        return _call_jvp(operands, [*tangents[:arity], *tangents[first:]], function=whole)
    at = tuple(i for i, tangent in enumerate(tangents[first:]) if _moves(tangent))
    outputs = bind_derivative(function, primals)
    if not at:
        return outputs, [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in outputs]
    moving = [tangents[first + i] for i in at]
    return outputs, bind_derivative(function.with_tangents_at(at), [*primals[:first], *moving])


def _pairs(xs: Sequence[Any], ys: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(xs, ys, strict=True)


def _call_batch(operands: Sequence[Any], axes: Sequence[Any], *, function: Call) -> Any:
    outputs = bind_call(function.vmap(tuple(axes), _size(operands, axes)), operands)
    return outputs, [0] * len(outputs)


def _linear_batch(operands: Sequence[Any], axes: Sequence[Any], *, function: Linear) -> Any:
    # A tangent that is not mapped gets a gradient for each member of the batch: JAX sums them.
    size, first = _size(operands, axes), function.first_tangent
    tangents = [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands[first:], axes[first:], strict=True)
    ]
    mapped = function.vmap((*axes[:first], *(0 for _ in tangents)), size)
    outputs = bind_derivative(mapped, [*operands[:first], *tangents])
    return outputs, [0] * len(outputs)


def _size(operands: Sequence[Any], axes: Sequence[Any]) -> int:
    """How large the batch is."""
    return next(x.shape[axis] for x, axis in _pairs(operands, axes) if axis is not None)


def _call_dce(used: Sequence[bool], eqn: Any) -> Any:
    """Residuals that nobody uses are not computed: under `jax.checkpoint`, in a forward pass."""
    function: Call = eqn.params["function"]
    count = len(function.op.output_specs())
    if not any(used) and not _is_checked(function):
        return [False] * len(eqn.invars), None
    if function.residual_count and not any(used[count:]):
        plain = Call(function.op, function.site, function.arity)
        eqn = eqn.replace(params={"function": plain}, outvars=eqn.outvars[:count])
    return [True] * len(eqn.invars), eqn


def _is_checked(function: Call) -> bool:
    """Whether a call is to find out about sizes: NOTE [results without elements]."""
    return not function.output_specs() or (
        function.site.root.reruns and has_empty_output(function.op.output_specs())
    )


def _lower_call(ctx: Any, *operands: Any, function: Call) -> Sequence[Any]:
    return _lower(ctx, operands, function, function.needed_operands)


def _lower_linear(ctx: Any, *operands: Any, function: Linear) -> Sequence[Any]:
    return _lower(ctx, operands, function, function.needed_operands)


def _lower(ctx: Any, operands: Sequence[Any], function: Call | Linear, taken: Positions) -> Any:
    given = [operands[i] for i in taken]
    for found, said in _pairs(function.executed_op.output_specs(), function.output_specs()):
        if (found.shape, found.dtype) != (said.shape, said.dtype):
            raise ArgumentError(f"{function} gives {found}, where {said} was expected.")
    avals = [ctx.avals_in[i] for i in taken]
    inner = dataclasses.replace(ctx, avals_in=avals)
    if function.executed_op.graph:
        return interpreter.lower(inner, given, function.executed_op, function.executed_op.graph())
    if function.site.root.graph:
        raise NoRuleError(
            f'{function} has no graph that could be compiled. Let torch compute with lower="ffi".'
        )
    specs = tuple(ArraySpec(tuple(aval.shape), str(aval.dtype)) for aval in avals)
    effect = has_empty_output(function.output_specs()) and _can_have_effect(ctx, function)
    return lower(inner, given, function.executed_op, function.site, specs, effect=effect)


def _can_have_effect(ctx: Any, function: Call | Linear) -> bool:
    """Whether a call can be marked: NOTE [results without elements]."""
    count = device_count(ctx)
    if count > 1 and function.site.root.reruns:
        shapes = ", ".join(map(str, function.output_specs()))
        raise ArgumentError(
            f"{function} returned ({shapes}) for values that were made up, and runs anew since it "
            f"looks at values. Where a result has no elements, XLA on {count} devices would not "
            "call it to find out about others. Return results whose sizes follow from those of "
            "the arguments, a mask say, or call it on one device."
        )
    return count == 1


def _compiled(primitive: Primitive, function: Call | Linear) -> Callable[..., list[Any]]:
    """An operation compiled on its own, for calls outside of `jax.jit`."""
    programs = function.site.programs()
    if programs is None:  # a pullback, say, that outlives its function
        return _orphaned(primitive, function)
    key = primitive, function
    return programs.get(key) or programs.setdefault(key, _compile(primitive, function))


def _compile(primitive: Primitive, function: Call | Linear) -> Callable[..., list[Any]]:
    def run(*operands: Any) -> list[Any]:
        return primitive.bind(*operands, function=function)

    run.__name__ = run.__qualname__ = repr(function)
    return jax.jit(with_argument_names(run))


_orphaned = functools.lru_cache(maxsize=64)(_compile)


def _eager(primitive: Primitive, *operands: Any, function: Call | Linear) -> list[Any]:
    if jit_is_disabled():
        with jax.disable_jit(disable=False):
            return raise_original_errors(_compiled(primitive, function), operands)
    return raise_original_errors(_compiled(primitive, function), operands)


def _register() -> None:
    outputs = lambda *operands, function: _results(function.output_specs(), operands)
    rules = {
        call_p: (_call_jvp, _call_batch, _lower_call),
        linear_p: (_linear_jvp, _linear_batch, _lower_linear),
    }
    for primitive, (jvp, batch, lowering) in rules.items():
        primitive.multiple_results = True
        primitive.def_impl(functools.partial(_eager, primitive))
        primitive.def_abstract_eval(outputs)
        ad.primitive_jvps[primitive] = shortens_tracebacks(jvp)
        batching.primitive_batchers[primitive] = shortens_tracebacks(batch)
        mlir.register_lowering(primitive, shortens_tracebacks(lowering), cacheable=False)
    ad.primitive_transposes[call_p] = shortens_tracebacks(transpose_call)
    ad.primitive_transposes[linear_p] = shortens_tracebacks(transpose_derivative)
    register_dead_code_rule(call_p, _call_dce)
    hold_weakly(Call, Linear)


_register()
