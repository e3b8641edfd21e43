"""Operators that belong to a single kind of layer."""

from typing import Any

import jax.numpy as jnp

from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering


@lowering("aten._weight_norm_interface_backward.default")
@compute_in_float32
def _weight_norm_backward(
    out: OutputInfo, gradient: Any, v: Any, g: Any, norms: Any, dim: int
) -> tuple[Any, Any]:
    axes = tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim)
    by_scale = jnp.sum(gradient * v, axes, keepdims=True) / norms
    return g / norms * (gradient - v * (by_scale / norms)), by_scale
