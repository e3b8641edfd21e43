"""Distances between the rows of matrices."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering


@lowering("aten._cdist_forward.default")
@compute_in_float32
def _distances(out: OutputInfo, x: Any, y: Any, p: float, *_: Any) -> Any:
    difference = jnp.abs(x[..., :, None, :] - y[..., None, :, :])
    return jnp.linalg.norm(difference, ord=p, axis=-1)


@lowering("aten._cdist_backward.default")
@compute_in_float32
def _distances_backward(
    out: OutputInfo, gradient: Any, x: Any, y: Any, p: float, distances: Any
) -> Any:
    difference = x[..., :, None, :] - y[..., None, :, :]
    return _norm_gradient(gradient[..., None], difference, p, distances[..., None]).sum(-2)


def _norm_gradient(gradient: Any, difference: Any, p: float, distances: Any) -> Any:
    """Return the gradient of the differences, given that of their norms, the distances."""
    if p == 0:  # the norm counts nonzero elements: constant almost everywhere
        return jnp.zeros_like(difference)
    nonzero = jnp.where(distances == 0, 1, distances)
    if p == jnp.inf:
        slope = jnp.sign(difference) * (jnp.abs(difference) == distances)
    else:
        size = jnp.where(difference == 0, 1, jnp.abs(difference))
        slope = jnp.sign(difference) * (size / nonzero) ** (p - 1)
    return jnp.where(distances == 0, 0, gradient * slope)


@lowering("aten._pdist_forward.default")
@compute_in_float32
def _distances_within(out: OutputInfo, x: Any, p: float = 2.0) -> Any:
    first, second = np.triu_indices(x.shape[0], 1)
    return jnp.linalg.norm(jnp.abs(x[first] - x[second]), ord=p, axis=-1)


@lowering("aten._pdist_backward.default")
@compute_in_float32
def _distances_within_backward(
    out: OutputInfo, gradient: Any, x: Any, p: float, distances: Any
) -> Any:
    first, second = np.triu_indices(x.shape[0], 1)
    slopes = _norm_gradient(gradient[:, None], x[first] - x[second], p, distances[:, None])
    return jnp.zeros(out.shape, out.dtype).at[first].add(slopes).at[second].add(-slopes)
