"""Tells from the jaxpr of a function whether it is linear in its arguments."""

import enum
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


class Linearity(enum.Enum):
    """The dependence of a value on the arguments; `NONLINEAR` is known not to be linear."""

    ZERO = enum.auto()
    CONSTANT = enum.auto()
    LINEAR = enum.auto()
    NONLINEAR = enum.auto()
    UNKNOWN = enum.auto()


ZERO, CONSTANT, LINEAR, NONLINEAR, UNKNOWN = Linearity
# Operations, with the positions of the operands that they are linear in together.
_SUMS: dict[str, slice | tuple[int, ...]] = {
    **dict.fromkeys(("add", "add_any", "sub", "neg", "concatenate", "pad", "complex"), slice(None)),
    **dict.fromkeys(("convert_element_type", "reduce_precision", "copy", "copy_p"), slice(None)),
    **dict.fromkeys(("reshape", "broadcast_in_dim", "transpose", "squeeze", "rev"), slice(None)),
    **dict.fromkeys(("slice", "reduce_sum", "cumsum", "split", "real", "imag"), slice(None)),
    **dict.fromkeys(("conj", "sharding_constraint", "device_put"), slice(None)),
    **dict.fromkeys(("div", "dynamic_slice", "gather"), (0,)),
    "select_n": slice(1, None),
    "dynamic_update_slice": (0, 1),
    "scatter-add": (0, 2),
    "scatter": (0, 2),
}
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
_CALLS = {"jit", "pjit", "closed_call", "remat", "checkpoint", "custom_jvp_call"}
# `stop_gradient` has the value, but not the derivative, of a linear function.
_NONLINEAR = {
    *("stop_gradient", "sign", "round", "floor", "ceil", "max", "min", "clamp", "abs", "exp"),
    *("exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "cbrt", "square", "pow", "integer_pow"),
    *("logistic", "tanh", "sin", "cos", "tan", "erf", "reduce_max", "reduce_min", "reduce_prod"),
    *("argmax", "argmin", "sort", "is_finite", "eq", "ne", "lt", "gt", "le", "ge"),
}


def is_nonlinear(closed: ClosedJaxpr) -> bool:
    """Return True if a result is surely no linear function of the arguments; a constant is none."""
    jaxpr: Any = closed.jaxpr
    linearities = _output_linearities(jaxpr, closed.consts, [LINEAR] * len(jaxpr.invars))
    return any(
        linearity in (CONSTANT, NONLINEAR) and jnp.issubdtype(var.aval.dtype, jnp.inexact)
        for linearity, var in zip(linearities, jaxpr.outvars, strict=True)
    )


def _is_zero(x: Any) -> bool:
    """Return True if a constant is known to be 0."""
    if isinstance(x, Tracer) or not jnp.issubdtype(jnp.result_type(x), jnp.number):
        return False
    with jax.ensure_compile_time_eval():
        return not jnp.any(x)


def _output_linearities(
    jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Linearity]
) -> list[Linearity]:
    linearities = {
        id(var): ZERO if _is_zero(x) else CONSTANT
        for var, x in zip(jaxpr.constvars, constants, strict=True)
    }
    linearities |= dict(zip(map(id, jaxpr.invars), arguments, strict=True))

    def linearity(var: Any) -> Linearity:
        if isinstance(var, Literal):
            return ZERO if _is_zero(var.val) else CONSTANT
        return linearities[id(var)]

    for eqn in jaxpr.eqns:
        operands = [linearity(var) for var in eqn.invars]
        callee = _callee(eqn)
        if callee and len(callee.jaxpr.invars) == len(operands):
            results = _output_linearities(callee.jaxpr, callee.consts, operands)
        else:
            results = [_result_linearity(eqn, operands)] * len(eqn.outvars)
        linearities |= dict(zip(map(id, eqn.outvars), results, strict=True))
    return [linearity(var) for var in jaxpr.outvars]


def _callee(eqn: Any) -> ClosedJaxpr | None:
    """Return the function that an equation calls once, on its operands; `None` if it does not."""
    if eqn.primitive.name not in _CALLS:
        return None
    called = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return called if isinstance(called, ClosedJaxpr) or called is None else ClosedJaxpr(called, ())


def _result_linearity(eqn: Any, operands: Sequence[Linearity]) -> Linearity:
    name = eqn.primitive.name
    if name in _PRODUCTS:
        return _product_linearity(*operands)
    if name in _SUMS:
        positions = _SUMS[name]
        indices = range(len(operands))
        linear = indices[positions] if isinstance(positions, slice) else positions
        others = {operands[i] for i in indices if i not in linear}
        is_inexact = all(jnp.issubdtype(var.aval.dtype, jnp.inexact) for var in eqn.outvars)
        if is_inexact and others <= {ZERO, CONSTANT}:
            return _sum_linearity([operands[i] for i in linear])
    if {*operands} <= {ZERO, CONSTANT}:
        return CONSTANT
    is_known = name in _SUMS or name in _NONLINEAR
    return NONLINEAR if is_known and UNKNOWN not in operands else UNKNOWN


def _product_linearity(x: Linearity, y: Linearity) -> Linearity:
    if ZERO in (x, y):
        return ZERO
    if UNKNOWN in (x, y):
        return UNKNOWN
    if CONSTANT in (x, y):
        return y if x is CONSTANT else x
    return NONLINEAR


def _sum_linearity(terms: Sequence[Linearity]) -> Linearity:
    linearities = {*terms} - {ZERO}
    if len(linearities) <= 1:
        return next(iter(linearities), ZERO)
    return UNKNOWN if UNKNOWN in linearities else NONLINEAR
