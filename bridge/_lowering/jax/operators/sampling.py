"""Operators that sample images at the points of a grid."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering

_LINEAR, _NEAREST, _CUBIC = range(3)  # interpolations and paddings, by torch's numbers
_ZEROS, _BORDER, _REFLECTION = range(3)


def _sample(rank: int, x: Any, grid: Any, mode: int, padding: int, aligned: bool) -> Any:
    """Sample an image at points with coordinates from -1 to 1, the last coordinate first."""
    sizes = x.shape[-rank:]
    points = [_unscale(grid[..., rank - 1 - i], sizes[i], aligned) for i in range(rank)]
    inside = functools.partial(_inside, padding=padding, aligned=aligned)
    if mode != _CUBIC:
        points = [inside(p, n) for p, n in zip(points, sizes, strict=True)]
    if mode == _NEAREST:
        return _read(x, [jnp.round(p) for p in points])
    starts = [jnp.floor(p) for p in points]
    weigh = _cubic if mode == _CUBIC else _linear
    weights = [weigh(p - start) for p, start in zip(points, starts, strict=True)]
    first = -1 if mode == _CUBIC else 0
    total: Any = 0
    for steps in itertools.product(range(len(weights[0])), repeat=rank):
        places = [start + first + step for start, step in zip(starts, steps, strict=True)]
        if mode == _CUBIC:
            places = [inside(p, n) for p, n in zip(places, sizes, strict=True)]
        weight = math.prod(
            axis_weights[step] for axis_weights, step in zip(weights, steps, strict=True)
        )
        total += _read(x, places) * jnp.expand_dims(weight, 1)
    return total


def _unscale(p: Any, size: int, aligned: bool) -> Any:
    return (p + 1) / 2 * (size - 1) if aligned else ((p + 1) * size - 1) / 2


def _inside(p: Any, size: int, *, padding: int, aligned: bool) -> Any:
    """Return coordinates moved into the image as the padding asks."""
    if padding == _ZEROS:
        return p
    if padding == _REFLECTION:
        low, high = (0, size - 1) if aligned else (-0.5, size - 0.5)
        p = _reflect(p, low, high - low)
    # A coordinate that is clipped has no gradient, at the edge either.
    return jnp.where((p > 0) & (p < size - 1), p, jax.lax.stop_gradient(jnp.clip(p, 0, size - 1)))


def _reflect(p: Any, low: float, span: float) -> Any:
    if not span:
        return jnp.zeros_like(p)
    distance = p - low
    distance = jnp.where(distance < 0, -distance, distance)
    flips = jax.lax.stop_gradient(jnp.floor(distance / span))
    rest = distance - flips * span
    return jnp.where(flips % 2 == 0, rest, span - rest) + low


def _linear(t: Any) -> Sequence[Any]:
    return 1 - t, t


def _cubic(t: Any) -> Sequence[Any]:
    """Return the weights of cubic convolution (Keys, 1981) of the four points around one."""
    a = -0.75
    near = lambda s: ((a + 2) * s - (a + 3)) * s * s + 1
    far = lambda s: ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return far(t + 1), near(t), near(1 - t), far(2 - t)


def _read(x: Any, places: Sequence[Any]) -> Any:
    """Read all channels at whole coordinates; 0 outside of the image."""
    sizes = x.shape[-len(places) :]
    within, at = jnp.ones(places[0].shape, bool), jnp.zeros(places[0].shape, "int64")
    for place, size in zip(places, sizes, strict=True):
        within &= (place >= 0) & (place <= size - 1)
        at = at * size + jnp.clip(place, 0, size - 1).astype("int64")
    flat = x.reshape(*x.shape[:2], -1)
    values = jnp.take_along_axis(flat, at.reshape(at.shape[0], 1, -1), -1)
    values = values.reshape(*x.shape[:2], *at.shape[1:])
    return jnp.where(within[:, None], values, 0)


def _sampler(rank: int, out: OutputInfo, x: Any, grid: Any, *options: Any) -> Any:
    return _sample(rank, x, grid, *options)


def _sampler_backward(
    rank: int,
    out: OutputInfo,
    gradient: Any,
    x: Any,
    grid: Any,
    mode: int,
    padding: int,
    aligned: bool,
    mask: Sequence[bool],
) -> tuple[Any, Any]:
    compute = lambda x, grid: _sample(rank, x, grid, mode, padding, aligned)
    by_image, by_grid = jax.vjp(compute, x, grid)[1](gradient)
    return by_image if mask[0] else None, by_grid if mask[1] else None


for _rank in (2, 3):
    lowering(f"aten.grid_sampler_{_rank}d.default")(
        compute_in_float32(functools.partial(_sampler, _rank))
    )
    lowering(f"aten.grid_sampler_{_rank}d_backward.default")(
        compute_in_float32(functools.partial(_sampler_backward, _rank))
    )
