"""The log-cosh loss in MLX."""

import math

import mlx.core as mx


@mx.custom_function
def log_cosh(x: mx.array) -> mx.array:
    """Return `log(cosh(x))` of each element; `cosh` itself would overflow."""
    return mx.abs(x) + mx.log1p(mx.exp(-2 * mx.abs(x))) - math.log(2)


@log_cosh.vjp
def _gradient(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * mx.tanh(x)


@log_cosh.jvp
def _tangent(x: mx.array, tangent: mx.array) -> mx.array:
    return tangent * mx.tanh(x)
