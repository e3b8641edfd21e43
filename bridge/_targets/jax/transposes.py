"""Transposes of calls and of derivatives, as far as these are linear.

NOTE [linear functions]
A function is linear, or differs from that by a constant, which JAX ignores in its own functions
too, if its derivative depends on nothing that it is transposed by. A graph tells so, but takes no
notice of steps, as of `round`: so its values are compared as well. What it is transposed to is this
derivative. A gradient is linear in the cotangents. Where no graph tells so, as of functions that
run anew, or where it has no derivative, it is transposed to the tangents of the function that it
is the gradient of, which sources hold to gradients.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters import ad

from bridge._arrays.jax import conjugate_all
from bridge._core.errors import NoRuleError
from bridge._core.op import Op, Positions
from bridge._targets.jax.binding import bind_call, bind_derivative
from bridge._targets.jax.calls import Call, Linear
from bridge._targets.jax.internals import match_varying_axes


def transpose_derivative(cotangents: Sequence[Any], *operands: Any, function: Linear) -> list[Any]:
    """The cotangents of tangents, for those of the tangents of outputs."""
    arity, first = function.arity, function.first_tangent
    asked, given = (
        _undefined_operands(operands),
        _outnums(function.differentiable_outputs, cotangents),
    )
    if any(i < first for i in asked):
        raise _not_linear_error(function)
    within = [function.argnums[i - first] for i in asked]
    needed = tuple(
        i for i in within if any(function.op.dependent_primals([y], (i,)) for y in given)
    )
    if not needed:
        return _cotangents(operands, (), ())
    made = function.transpose(needed, given)
    row = [*operands[:arity], *conjugate_all(_known_cotangents(cotangents)), *operands[arity:first]]
    places = [first + function.argnums.index(i) for i in needed]
    return _cotangents(operands, places, bind_call(made, row[: made.operand_count]))


def transpose_call(cotangents: Sequence[Any], *operands: Any, function: Call) -> list[Any]:
    """The cotangents of operands in which a call is linear: NOTE [linear functions]."""
    op, arity = function.op, function.arity
    outputs = cotangents[: len(op.output_specs())]  # nothing but its derivatives takes residuals
    given = _outnums(range(len(outputs)), outputs)
    needed = op.dependent_primals(
        given, tuple(i for i in _undefined_operands(operands) if i < arity)
    )
    if not needed:
        return _cotangents(operands, (), ())
    known = conjugate_all(_known_cotangents(outputs))
    transpose = _transpose(function, operands, needed, given)
    if transpose:
        row = [_zeros(x) if ad.is_undefined_primal(x) else x for x in operands[:arity]]
        return _cotangents(operands, needed, bind_call(transpose, [*row, *known]))
    if function.gradient is None or needed[0] < function.gradient.linear.arity:
        raise _not_linear_error(function)
    linear, taken = function.gradient.transpose(given)
    tangents = bind_derivative(linear, [*operands[: linear.arity], *known])
    found = [tangents[taken[i - linear.arity]] for i in needed]
    return _cotangents(operands, needed, found)


def _transpose(
    function: Call, operands: Sequence[Any], argnums: Positions, outnums: Positions
) -> Call | None:
    """What gives the cotangents of `needed`, if the function is known to be linear in them."""
    op, key = function.op, ("linear", argnums, outnums)
    try:
        derived: Op = op.derive("vjp", argnums, outnums)
    except NoRuleError:
        return None
    if derived.dependencies is None or derived.dependent_primals(range(len(argnums)), argnums):
        return None
    transpose = Call(derived, function.site, function.arity + len(outnums))
    if key not in op.notes:
        op.notes[key] = _agree(function, transpose, operands, argnums, outnums)
    return transpose if op.notes[key] else None


def _agree(
    function: Call, transpose: Call, operands: Sequence[Any], argnums: Positions, outnums: Positions
) -> bool:
    """Whether a function and what may be its transpose agree on some values."""
    arity, op = function.arity, function.op
    plain = Call(op, function.site, arity)
    with jax.ensure_compile_time_eval():
        xs = [_random_like(x, seed) for seed, x in enumerate(operands[:arity])]
        ys = [jax.ShapeDtypeStruct(s.shape, jnp.dtype(s.dtype)) for s in op.output_specs()]
        weights = [_example_like(ys[i], arity + i) for i in outnums]
        zeros = [jnp.zeros_like(x) if i in argnums else x for i, x in enumerate(xs)]
        try:
            values, offsets = bind_call(plain, xs), bind_call(plain, zeros)
            gradients = conjugate_all(bind_call(transpose, [*zeros, *conjugate_all(weights)]))
        except jax.errors.JaxRuntimeError:  # as of a singular matrix, which tells nothing
            return False
        left = [(values[i] - offsets[i]) * w for i, w in zip(outnums, weights, strict=True)]
        right = [xs[i] * g for i, g in zip(argnums, gradients, strict=True)]
        eps = max(float(jnp.finfo(x.dtype).eps) for x in (*left, *right))
        terms = [*map(_real, left), *(-_real(x) for x in right)]
    size = sum(float(np.abs(x).sum()) for x in terms)
    return abs(sum(float(x.sum()) for x in terms)) <= min(1e3 * eps, 0.05) * size


def _real(x: Any) -> np.ndarray:
    return np.real(np.asarray(x)).astype(np.float64)


def _random_like(x: Any, seed: int) -> Any:
    """`x`, or if that has no values, values for it."""
    if ad.is_undefined_primal(x):
        return _example_like(x.aval, seed)
    return _example_like(jax.typeof(x), seed) if isinstance(x, Tracer) else x


def _example_like(like: Any, seed: int) -> Any:
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


def _outnums(outputs: Iterable[int], cotangents: Sequence[Any]) -> Positions:
    """Those of the outputs that have cotangents."""
    pairs = zip(outputs, cotangents, strict=True)
    return tuple(i for i, cotangent in pairs if type(cotangent) is not ad.Zero)


def _known_cotangents(cotangents: Sequence[Any]) -> list[Any]:
    return [c for c in cotangents if type(c) is not ad.Zero]


def _cotangents(
    operands: Sequence[Any], places: Sequence[int], gradients: Sequence[Any]
) -> list[Any]:
    """These `gradients`, in torch's convention, at their `places`; zeros at others asked for."""
    row = [ad.Zero(x.aval) if ad.is_undefined_primal(x) else None for x in operands]
    for i, gradient in zip(places, conjugate_all(gradients), strict=True):
        row[i] = match_varying_axes(gradient, operands[i].aval)
    return row


def _not_linear_error(function: Call | Linear) -> NoRuleError:
    return NoRuleError(
        f"{function} is not known to be linear in the arguments that it is transposed by: a "
        "derivative by them depends on them, or it runs anew on each call, so that nothing tells. "
        "Transpose what is linear: the pullback of jax.vjp, or the second result of jax.linearize."
    )
