"""A first derivative whose forward half computes the gradient along with the value.

NOTE [the gradient of a number]
The derivative of one real number is linear in one real cotangent, so it can be computed for the
cotangent 1 along with the number, in one program that keeps nothing, as `jax.value_and_grad` does;
the backward half multiplies. This is exact to rounding if the derivative is in truth linear, which
`jax.custom_vjp` need not be (it may clip gradients), and if no gradient on its way leaves the range
of its dtype: a loss is scaled by a large number where gradients are too small for 16 bits.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from bridge._arrays.jax import conjugate_all
from bridge._core.op import ForwardBackward, Op, Positions
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.jaxpr import inner_jaxprs

_EXACT = {"float32", "float64", "complex64", "complex128"}


def is_scalable(of: Derivative) -> bool:
    """Whether the derivative may be scaled: NOTE [the gradient of a number]."""
    outputs = [of.program.outputs[i] for i in of.outnums]
    return (
        [math.prod(spec.shape) for spec in outputs] == [1]
        and outputs[0].dtype in ("float32", "float64")
        and all(of.primals[i].dtype in _EXACT for i in of.argnums)
        and _is_linear(of.program.jaxpr.jaxpr)
    )


def _is_linear(jaxpr: Jaxpr) -> bool:
    """Whether its derivative is linear in numbers of 32 bits or more."""
    for eqn in jaxpr.eqns:
        if "custom_vjp" in eqn.primitive.name or not all(map(_is_linear, inner_jaxprs(eqn))):
            return False
    return all(_is_exact(var.aval) for var in _variables(jaxpr))


def _variables(jaxpr: Jaxpr) -> Iterator[Any]:
    yield from (*jaxpr.invars, *jaxpr.constvars)
    for eqn in jaxpr.eqns:
        yield from eqn.outvars


def _is_exact(aval: Any) -> bool:
    dtype = getattr(aval, "dtype", None)
    return dtype is None or not jnp.issubdtype(dtype, jnp.inexact) or str(dtype) in _EXACT


def gradient_with_value(of: Derivative) -> ForwardBackward:
    """Both halves: the outputs with the gradients for the cotangent 1, and their multiples."""
    count = len(of.program.outputs)
    number = of.program.outputs[of.outnums[0]]

    def first(*xs: Any) -> list[Any]:
        outputs, pull = of.linearize(xs)
        return [*outputs, *conjugate_all(pull([jnp.ones(number.shape, number.dtype)]))]

    forward = of.make_half(first, "value_and_grad", of.primals, count)
    gradients = forward.output_specs()[count:]

    @functools.cache
    def backward(argnums: Positions) -> Op:
        def multiples(*row: Any) -> list[Any]:
            return [_scale(row[of.argnums.index(i)], row[-1].reshape(())) for i in argnums]

        return of.make_half(multiples, "scale", (*gradients, number))

    return ForwardBackward(
        strategy="gradient",
        forward=forward,
        backward=backward,
        output_count=count,
        saved_primals=(),
        saved_outputs=(),
    )


def _scale(gradient: jax.Array, cotangent: jax.Array) -> jax.Array:
    """The product, rounded once; of a complex gradient by parts, which keeps infinities apart."""
    if jnp.iscomplexobj(gradient):
        return jax.lax.complex(_scale(gradient.real, cotangent), _scale(gradient.imag, cotangent))
    return (gradient * cotangent).astype(gradient.dtype)
