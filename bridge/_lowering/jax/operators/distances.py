"""Distances between the rows of matrices."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering


@lowering("aten._cdist_forward.default")
@compute_in_float32
def _distances(out: OutputInfo, x: Any, y: Any, p: float, *_: Any) -> Any:
    away = jnp.abs(x[..., :, None, :] - y[..., None, :, :])
    return jnp.linalg.norm(away, ord=p, axis=-1)


@lowering("aten._cdist_backward.default")
@compute_in_float32
def _distances_backward(
    out: OutputInfo, gradient: Any, x: Any, y: Any, p: float, found: Any
) -> Any:
    away = x[..., :, None, :] - y[..., None, :, :]
    return _slopes(gradient[..., None], away, p, found[..., None]).sum(-2)


def _slopes(gradient: Any, away: Any, p: float, found: Any) -> Any:
    """The gradient by differences, of which distances are the norms."""
    if p == 0:  # a number of places, which is constant almost everywhere
        return jnp.zeros_like(away)
    apart = jnp.where(found == 0, 1, found)
    if p == jnp.inf:
        slope = jnp.sign(away) * (jnp.abs(away) == found)
    else:
        size = jnp.where(away == 0, 1, jnp.abs(away))
        slope = jnp.sign(away) * (size / apart) ** (p - 1)
    return jnp.where(found == 0, 0, gradient * slope)


@lowering("aten._pdist_forward.default")
@compute_in_float32
def _distances_within(out: OutputInfo, x: Any, p: float = 2.0) -> Any:
    first, second = np.triu_indices(x.shape[0], 1)
    return jnp.linalg.norm(jnp.abs(x[first] - x[second]), ord=p, axis=-1)


@lowering("aten._pdist_backward.default")
@compute_in_float32
def _distances_within_backward(out: OutputInfo, gradient: Any, x: Any, p: float, found: Any) -> Any:
    first, second = np.triu_indices(x.shape[0], 1)
    slopes = _slopes(gradient[:, None], x[first] - x[second], p, found[:, None])
    return jnp.zeros(out.shape, out.dtype).at[first].add(slopes).at[second].add(-slopes)
