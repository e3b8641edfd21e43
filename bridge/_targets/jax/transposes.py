"""Transposes of calls and of derivatives, as far as these are linear.

NOTE [linear functions]
A function is linear, up to a constant, if its derivative does not depend on the arguments that it
is transposed by. (JAX ignores the constant in its own functions too.) A graph shows this
dependence, but misses steps, as in `round`: so values are compared as well. The transpose is this
derivative.

A gradient is linear in the cotangents. If no graph shows it, because the function is rerun on every
call, or if the gradient has no derivative, it is transposed to the tangents of the function that it
is the gradient of: sources check that tangents and gradients agree.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters import ad

from bridge._arrays.jax import conjugate_all
from bridge._arrays.jax.upstream.tracing import match_explicit_sharding
from bridge._core.errors import NoRuleError
from bridge._core.op import Op, OpCache, Positions
from bridge._targets.jax.binding import bind_call, bind_derivative
from bridge._targets.jax.calls import Call, Jvp

_CACHE = OpCache()


def transpose_derivative(cotangents: Sequence[Any], *operands: Any, function: Jvp) -> list[Any]:
    """Return cotangents of the tangents of primals, given those of the tangents of outputs."""
    arity, first = function.arity, function.first_tangent
    undefined = _undefined_operands(operands)
    outnums = _nonzero_outnums(function.differentiable_outputs, cotangents)
    if any(i < first for i in undefined):
        raise _not_linear_error(function)
    primals = [function.argnums[i - first] for i in undefined]
    argnums = tuple(i for i in primals if function.op.dependent_outputs(outnums, (i,)))
    if not argnums:
        return _operand_cotangents(operands, (), ())
    call = function.transpose(argnums, outnums)
    known = conjugate_all(_drop_symbolic_zeros(cotangents))
    xs = [*operands[:arity], *known, *operands[arity:first]]
    positions = [first + function.argnums.index(i) for i in argnums]
    return _operand_cotangents(operands, positions, bind_call(call, xs[: call.operand_count]))


def transpose_call(cotangents: Sequence[Any], *operands: Any, function: Call) -> list[Any]:
    """Return cotangents of the operands in which a call is linear: NOTE [linear functions]."""
    op, arity = function.op, function.arity
    # Residuals have no cotangents: only derivatives read them.
    outputs = cotangents[: len(op.output_specs())]
    outnums = _nonzero_outnums(range(len(outputs)), outputs)
    undefined = tuple(i for i in _undefined_operands(operands) if i < arity)
    argnums = op.dependent_primals(outnums, undefined)
    if not argnums:
        # Without a derivative values can depend on it all the same, as on what was detached.
        if undefined and outnums and not _agrees(function, None, operands, undefined, (), outnums):
            raise _not_linear_error(function)
        return _operand_cotangents(operands, (), ())
    known = conjugate_all(_drop_symbolic_zeros(outputs))
    transpose = _find_transpose(function, operands, undefined, argnums, outnums)
    if transpose:
        xs = [_zeros(x) if ad.is_undefined_primal(x) else x for x in operands[:arity]]
        return _operand_cotangents(operands, argnums, bind_call(transpose, [*xs, *known]))
    if function.as_gradient is None or argnums[0] < function.as_gradient.linear.arity:
        raise _not_linear_error(function)
    linear, tangent_positions = function.as_gradient.transpose(outnums)
    tangents = bind_derivative(linear, [*operands[: linear.arity], *known])
    gradients = [tangents[tangent_positions[i - linear.arity]] for i in argnums]
    return _operand_cotangents(operands, argnums, gradients)


def _find_transpose(
    function: Call,
    operands: Sequence[Any],
    undefined: Positions,
    argnums: Positions,
    outnums: Positions,
) -> Call | None:
    """Return the vjp by `argnums` if the function is known to be linear in what is `undefined`."""
    try:
        derived: Op = function.op.derive("vjp", argnums, outnums)
    except NoRuleError:
        return None
    if derived.traits.dependencies is None or derived.dependent_primals(
        range(len(argnums)), argnums
    ):
        return None
    transpose = Call(derived, function.callee, function.arity + len(outnums))
    agrees = _agrees(function, transpose, operands, undefined, argnums, outnums)
    return transpose if agrees else None


def _agrees(function: Call, transpose: Call | None, operands: Sequence[Any], *key: Any) -> bool:
    """Return whether a function and its presumed transpose agree, from a cache."""
    cache = _CACHE.of(function.op)
    if key not in cache:
        cache[key] = _agree_on_examples(function, transpose, operands, *key)
    return cache[key]


def _agree_on_examples(
    function: Call,
    transpose: Call | None,
    operands: Sequence[Any],
    undefined: Positions,
    argnums: Positions,
    outnums: Positions,
) -> bool:
    """Return True if a function and its presumed transpose agree on example values.

    The transpose is by the operands at `argnums` among those that are `undefined`; the function
    has to be constant in the others.
    """
    arity, op = function.arity, function.op
    plain = Call(op, function.callee, arity)
    with jax.ensure_compile_time_eval():
        xs = [_as_concrete(x, seed) for seed, x in enumerate(operands[:arity])]
        ys = [jax.ShapeDtypeStruct(s.shape, jnp.dtype(s.dtype)) for s in op.output_specs()]
        weights = [_random_like(ys[i], arity + i) for i in outnums]
        zeros = [jnp.zeros_like(x) if i in undefined else x for i, x in enumerate(xs)]
        try:
            values, offsets = bind_call(plain, xs), bind_call(plain, zeros)
            args = [*zeros, *conjugate_all(weights)]
            gradients = conjugate_all(bind_call(transpose, args)) if transpose else ()
        except jax.errors.JaxRuntimeError:  # the values do not suit it: a singular matrix, say
            return False
        left = [(values[i] - offsets[i]) * w for i, w in zip(outnums, weights, strict=True)]
        right = [xs[i] * g for i, g in zip(argnums, gradients, strict=True)]
        eps = max(float(jnp.finfo(x.dtype).eps) for x in (*left, *right))
        terms = [*map(_real_part, left), *(-_real_part(x) for x in right)]
    size = sum(float(np.abs(x).sum()) for x in terms)
    return abs(sum(float(x.sum()) for x in terms)) <= min(1e3 * eps, 0.05) * size


def _real_part(x: Any) -> np.ndarray:
    return np.real(np.asarray(x)).astype(np.float64)


def _as_concrete(x: Any, seed: int) -> Any:
    """Return `x`, or random values like it if it has none."""
    if ad.is_undefined_primal(x):
        return _random_like(x.aval, seed)
    return _random_like(jax.typeof(x), seed) if isinstance(x, Tracer) else x


def _random_like(like: Any, seed: int) -> Any:
    if not jnp.issubdtype(like.dtype, jnp.inexact):
        return jnp.zeros(like.shape, like.dtype)
    random = np.random.default_rng(seed)
    values = random.uniform(-3, 3, (2, *like.shape))
    if jnp.issubdtype(like.dtype, jnp.complexfloating):
        return jnp.asarray(values[0] + 1j * values[1], like.dtype)
    return jnp.asarray(values[0], like.dtype)


def _zeros(x: Any) -> Any:
    return jnp.zeros(x.aval.shape, x.aval.dtype)


def _undefined_operands(operands: Sequence[Any]) -> Positions:
    return tuple(i for i, x in enumerate(operands) if ad.is_undefined_primal(x))


def _nonzero_outnums(outnums: Iterable[int], cotangents: Sequence[Any]) -> Positions:
    """Return those of `outnums` whose cotangent is not known to be zero."""
    pairs = zip(outnums, cotangents, strict=True)
    return tuple(i for i, cotangent in pairs if type(cotangent) is not ad.Zero)


def _drop_symbolic_zeros(cotangents: Sequence[Any]) -> list[Any]:
    return [c for c in cotangents if type(c) is not ad.Zero]


def _operand_cotangents(
    operands: Sequence[Any], positions: Sequence[int], gradients: Sequence[Any]
) -> list[Any]:
    """Return a cotangent for each undefined operand: zero, or the gradient at its position.

    Gradients follow the convention of torch, cotangents that of JAX.
    """
    cotangents = [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in operands]
    for i, gradient in zip(positions, conjugate_all(gradients), strict=True):
        cotangents[i] = match_explicit_sharding(gradient, operands[i].aval)
    return cotangents


def _not_linear_error(function: Call | Jvp) -> NoRuleError:
    return NoRuleError(
        f"{function} is not known to be linear in the arguments that it is transposed by: its "
        "derivative depends on them, or it is rerun on every call, so that nothing shows it. "
        "Transpose what is linear: the pullback of jax.vjp, or the second result of jax.linearize."
    )
