"""Operators that pool over windows, with gradients of padding by repetition."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bridge._lowering.jax.operators.lowerings import OutputInfo, compute_in_float32, lowering

Sizes = Sequence[int]


def _window_sizes(rank: int, kernel: Sizes, stride: Sizes, padding: Sizes) -> tuple[Sizes, ...]:
    """Return sizes for each of the pooled axes; without a stride, windows lie side by side."""
    kernel = _each(kernel, rank)
    return kernel, _each(stride, rank) if stride else kernel, _each(padding or (0,), rank)


def _each(sizes: Sizes | int, rank: int) -> Sizes:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return sizes * rank if len(sizes) == 1 else sizes


def _sides(
    sizes: Sizes, output_sizes: Sizes, kernel: Sizes, stride: Sizes, padding: Sizes
) -> list[Any]:
    """Return the padding on both sides that windows need for as many outputs as torch says."""
    sides: list[Any] = []
    for n, m, k, s, p in zip(sizes, output_sizes, kernel, stride, padding, strict=True):
        sides.append((p, max((m - 1) * s + k - n - p, 0)))
    return sides


def _max_pool(
    rank: int,
    out: OutputInfo,
    x: Any,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    *_: Any,
) -> tuple[Any, Any]:
    kernel, stride, padding = _window_sizes(rank, kernel, stride, padding)
    dilation = _each(dilation, rank)
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    output_sizes, sizes = out.shape[-rank:], x.shape[-rank:]
    sides = _sides(sizes, output_sizes, extents, stride, padding)
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.iinfo(x.dtype).min
    places = jnp.arange(math.prod(sizes)).reshape(sizes)
    padded = _pad(x, sides, jnp.asarray(least, x.dtype))
    padded_places = _pad(places, sides, jnp.asarray(-1, places.dtype))
    offsets = list(np.ndindex(*kernel))
    cut = functools.partial(_cut, output_sizes=output_sizes, stride=stride, dilation=dilation)
    rows = jnp.stack([cut(padded, at) for at in offsets])
    row_places = jnp.stack([cut(padded_places, at) for at in offsets])
    inside = (row_places >= 0).reshape(-1, *(1,) * (x.ndim - rank), *output_sizes)
    first = _first_maximum(rows, inside)
    at = jnp.broadcast_to(jnp.expand_dims(row_places, range(1, 1 + x.ndim - rank)), rows.shape)
    return rows.max(0), jnp.take_along_axis(at, first[None], 0)[0]


def _first_maximum(rows: Any, inside: Any) -> Any:
    """Return which row has the first maximum or nan of each column.

    A position in the padding never counts, even if all elements are -inf.
    """
    best = jnp.where(rows == rows.max(0), inside, 0)
    return jnp.argmax(jnp.where(jnp.isnan(rows), 1, best), 0)


def _pad(x: Any, sides: Sequence[Any], value: Any) -> Any:
    rows = [(0, 0, 0)] * (x.ndim - len(sides)) + [(low, high, 0) for low, high in sides]
    return lax.pad(x, value, rows)


def _cut(x: Any, at: Sizes, *, output_sizes: Sizes, stride: Sizes, dilation: Sizes) -> Any:
    """Return the elements at one position of each window."""
    rank = len(output_sizes)
    start = [d * i for d, i in zip(dilation, at, strict=True)]
    stop = [b + (m - 1) * s + 1 for b, m, s in zip(start, output_sizes, stride, strict=True)]
    slices = [slice(*bounds) for bounds in zip(start, stop, stride, strict=True)]
    return x[(..., *slices)] if rank else x


def _max_pool_backward(rank: int, out: OutputInfo, gradient: Any, x: Any, *options: Any) -> Any:
    places = options[-1]
    lead = x.shape[: x.ndim - rank]
    rows, count = math.prod(lead), math.prod(x.shape[-rank:])
    empty = jnp.zeros((rows, count), out.dtype)
    at = jnp.arange(rows)[:, None], places.reshape(rows, math.prod(places.shape[-rank:]))
    return empty.at[at].add(gradient.reshape(at[1].shape), mode="drop").reshape(x.shape)


def _avg_pool(
    rank: int,
    out: OutputInfo,
    x: Any,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    _: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    kernel, stride, padding = _window_sizes(rank, kernel, stride, padding)
    output_sizes, sizes = out.shape[-rank:], x.shape[-rank:]
    sides = _sides(sizes, output_sizes, kernel, stride, padding)
    total = _sums(_pad(x, sides, jnp.zeros((), x.dtype)), kernel, stride, output_sizes)
    if divisor_override:
        return total / divisor_override
    counted = np.ones(sizes)
    if count_include_pad:  # but not what only the last windows reach beyond it
        counted = np.pad(counted, [(p, p) for p in padding], constant_values=1)
        sides = [(0, max(high - p, 0)) for (_, high), p in zip(sides, padding, strict=True)]
    counts = _sums(
        _pad(jnp.asarray(counted, x.dtype), sides, jnp.zeros((), x.dtype)),
        kernel,
        stride,
        output_sizes,
    )
    return total / counts


def _sums(x: Any, kernel: Sizes, stride: Sizes, output_sizes: Sizes) -> Any:
    lead = (1,) * (x.ndim - len(kernel))
    zero = np.zeros((), x.dtype)  # a constant that JAX knows, as it has to for a transpose
    sums = lax.reduce_window(x, zero, lax.add, (*lead, *kernel), (*lead, *stride), "VALID")
    return sums[(..., *(slice(n) for n in output_sizes))]


def _avg_pool_backward(rank: int, out: OutputInfo, gradient: Any, x: Any, *options: Any) -> Any:
    pooled = OutputInfo([dataclasses.replace(out.first_spec, shape=gradient.shape)])
    return jax.linear_transpose(lambda x: _avg_pool(rank, pooled, x, *options), x)(gradient)[0]


for _rank in (1, 2, 3):
    lowering(f"aten.max_pool{_rank}d_with_indices.default")(functools.partial(_max_pool, _rank))
    for _name, _compute in {
        f"max_pool{_rank}d_with_indices_backward": _max_pool_backward,
        f"avg_pool{_rank}d": _avg_pool,
        f"avg_pool{_rank}d_backward": _avg_pool_backward,
        f"adaptive_max_pool{_rank}d_backward": _max_pool_backward,
    }.items():
        lowering(f"aten.{_name}.default")(compute_in_float32(functools.partial(_compute, _rank)))


def _window_indices_and_lengths(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and lengths of `count` windows that divide an axis evenly.

    A window that is shorter than others repeats its last position.
    """
    ends = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    lengths = np.array([stop - start for start, stop in ends])
    steps = np.minimum(np.arange(lengths.max(initial=0)), lengths[:, None] - 1)
    return np.array([start for start, _ in ends])[:, None] + steps, lengths


def _adaptive_max(rank: int, out: OutputInfo, x: Any, sizes: Sizes) -> tuple[Any, Any]:
    lead, axes = x.ndim - rank, x.shape[x.ndim - rank :]
    places = jnp.arange(math.prod(axes)).reshape(axes)
    for i, count in enumerate(sizes):  # a window's axes follow one another at the end
        at, _ = _window_indices_and_lengths(axes[i], count)
        x = jnp.moveaxis(jnp.take(x, at, lead + i), lead + i + 1, -1)
        places = jnp.moveaxis(jnp.take(places, at, i), i + 1, -1)
    x = x.reshape(*x.shape[: lead + rank], -1)
    places = jnp.broadcast_to(places.reshape(*places.shape[:rank], -1), x.shape)
    missing = jnp.isnan(x) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.zeros(x.shape, bool)
    last = x.shape[-1] - 1 - jnp.argmax(jnp.flip(missing, -1), -1)
    at = jnp.where(missing.any(-1), last, jnp.argmax(x, -1))[..., None]
    return tuple(jnp.take_along_axis(y, at, -1)[..., 0] for y in (x, places))  # pyright: ignore[reportReturnType]


for _rank in (2, 3):
    lowering(f"aten.adaptive_max_pool{_rank}d.default")(functools.partial(_adaptive_max, _rank))


def _means(x: Any, axis: int, count: int) -> Any:
    """Return the means of `count` windows that divide an axis evenly."""
    places, lengths = _window_indices_and_lengths(x.shape[axis], count)
    # Not a product with weights: 0 times infinity would be NaN.
    inside = np.arange(places.shape[1]) < lengths[:, None]
    inside = inside.reshape(count, -1, *(1,) * (x.ndim - 1 - axis))
    windows = jnp.take(x, places, axis)
    shape = [count if i == axis else 1 for i in range(x.ndim)]
    return jnp.where(inside, windows, 0).sum(axis + 1) / lengths.reshape(shape).astype(x.dtype)


@lowering("aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
@compute_in_float32
def _adaptive(out: OutputInfo, x: Any, sizes: Sizes) -> Any:
    for axis, count in enumerate(sizes, x.ndim - len(sizes)):
        x = _means(x, axis, count)
    return x


def _adaptive_backward(rank: int, out: OutputInfo, gradient: Any, x: Any) -> Any:
    sizes = gradient.shape[-rank:]
    return jax.linear_transpose(lambda x: _adaptive(out, x, sizes), x)(gradient)[0]


for _rank in (2, 3):
    lowering(f"aten._adaptive_avg_pool{_rank}d_backward.default")(
        compute_in_float32(functools.partial(_adaptive_backward, _rank))
    )


def _clipped_positions(sizes: Sizes, padding: Sizes) -> list[np.ndarray]:
    """Return, for each of the last axes, the positions that padding by repetition reads."""
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    return [
        np.clip(np.arange(-low, n + high), 0, n - 1)
        for n, (low, high) in zip(sizes, pairs, strict=True)
    ]


def _replication_pad_backward(
    rank: int, out: OutputInfo, gradient: Any, x: Any, padding: Sizes
) -> Any:
    places = np.ix_(*_clipped_positions(x.shape[-rank:], padding))
    return jnp.zeros(out.shape, out.dtype).at[(..., *places)].add(gradient)


for _rank in (1, 2, 3):
    lowering(f"aten.replication_pad{_rank}d_backward.default")(
        compute_in_float32(functools.partial(_replication_pad_backward, _rank))
    )
