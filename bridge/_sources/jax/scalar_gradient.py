"""A first derivative whose forward half computes the gradient along with the value.

NOTE [the gradient of a number]
The gradient of one real number is linear in one real cotangent. So it can be computed along with
the number, for the cotangent 1, in one program that saves nothing, as `jax.value_and_grad` does;
the backward half multiplies it by the cotangent. This is exact up to rounding on two conditions.
The gradient must be linear indeed: a `jax.custom_vjp` need not be, as it may clip gradients. And
no intermediate gradient may leave the range of its dtype: in 16 bits, where gradients are small,
losses are scaled by a large number for that reason.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from bridge._arrays.jax import conjugate_all
from bridge._arrays.jax.upstream.jaxprs import inner_jaxprs
from bridge._core.op import ForwardBackward, Op, Positions
from bridge._sources.jax.derivative import Derivative

_FULL_PRECISION = {"float32", "float64", "complex64", "complex128"}


def is_scalable(derivative: Derivative) -> bool:
    """Return True if gradients may be scaled: NOTE [the gradient of a number]."""
    outputs = [derivative.program.outputs[i] for i in derivative.outnums]
    return (
        [math.prod(spec.shape) for spec in outputs] == [1]
        and outputs[0].dtype in ("float32", "float64")
        and all(derivative.primals[i].dtype in _FULL_PRECISION for i in derivative.argnums)
        and _has_scalable_vjp(derivative.program.jaxpr.jaxpr)
    )


def _has_scalable_vjp(jaxpr: Jaxpr) -> bool:
    """Return True if the vjp is linear in the cotangent and computes in 32 bits or more."""
    for eqn in jaxpr.eqns:
        if "custom_vjp" in eqn.primitive.name or not all(map(_has_scalable_vjp, inner_jaxprs(eqn))):
            return False
    return not any(_is_low_precision(var.aval) for var in _variables(jaxpr))


def _variables(jaxpr: Jaxpr) -> Iterator[Any]:
    yield from (*jaxpr.invars, *jaxpr.constvars)
    for eqn in jaxpr.eqns:
        yield from eqn.outvars


def _is_low_precision(aval: Any) -> bool:
    """Return True if these are floats of less than 32 bits."""
    dtype = getattr(aval, "dtype", None)
    is_inexact = dtype is not None and jnp.issubdtype(dtype, jnp.inexact)
    return is_inexact and str(dtype) not in _FULL_PRECISION


def gradient_with_value(derivative: Derivative) -> ForwardBackward:
    """Make the forward, outputs and the gradients for the cotangent 1, and a backward to scale."""
    output_count = len(derivative.program.outputs)
    scalar = derivative.program.outputs[derivative.outnums[0]]

    def value_and_grad(*xs: Any) -> list[Any]:
        outputs, pullback = derivative.pullback(xs)
        return [*outputs, *conjugate_all(pullback([jnp.ones(scalar.shape, scalar.dtype)]))]

    forward = derivative.make_half(
        value_and_grad, "value_and_grad", derivative.primals, output_count
    )
    gradient_specs = forward.output_specs()[output_count:]

    @functools.cache
    def backward(argnums: Positions) -> Op:
        def scale_gradients(*args: Any) -> list[Any]:
            *gradients, cotangent = args
            cotangent = cotangent.reshape(())
            return [_scale(gradients[derivative.argnums.index(i)], cotangent) for i in argnums]

        return derivative.make_half(scale_gradients, "scale", (*gradient_specs, scalar))

    return ForwardBackward(
        strategy="gradient",
        forward=forward,
        backward=backward,
        output_count=output_count,
        saved_primals=(),
        saved_outputs=(),
    )


def _scale(gradient: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Return the product, rounded once."""
    # By parts: as a complex product, an infinite real part would make the imaginary part NaN.
    if jnp.iscomplexobj(gradient):
        return jax.lax.complex(_scale(gradient.real, cotangent), _scale(gradient.imag, cotangent))
    return (gradient * cotangent).astype(gradient.dtype)
