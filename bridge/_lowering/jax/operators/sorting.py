"""Operators that sort arrays, or search sorted ones."""

from typing import Any

import jax.numpy as jnp
from jax import lax

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, lowering


def _sort_along(x: Any, dim: int, *, descending: bool) -> tuple[Any, Any]:
    """Sort stably; return values and their old positions. NaN counts as the largest."""
    if not x.ndim:
        return x, jnp.zeros((), "int64")
    axis = dim % x.ndim
    places = lax.broadcasted_iota("int64", x.shape, axis)
    if descending:  # flipped before and after, so that equal elements keep their order
        x, places = jnp.flip(x, axis), jnp.flip(places, axis)
    values, places = lax.sort((x, places), dimension=axis, is_stable=True, num_keys=1)
    if descending:
        values, places = jnp.flip(values, axis), jnp.flip(places, axis)
    return values, places


@lowering("aten.sort.default")
def _sort(out: OutputInfo, x: Any, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    return _sort_along(x, dim, descending=descending)


@lowering("aten.sort.stable")
def _sort_stably(
    out: OutputInfo,
    x: Any,
    *,
    stable: bool | None = None,
    dim: int = -1,
    descending: bool = False,
) -> tuple[Any, Any]:
    return _sort_along(x, dim, descending=descending)


@lowering("aten.argsort.default")
def _argsort(out: OutputInfo, x: Any, dim: int = -1, descending: bool = False) -> Any:
    return _sort_along(x, dim, descending=descending)[1]


@lowering("aten.topk.default")
def _topk(
    out: OutputInfo,
    x: Any,
    k: int,
    dim: int = -1,
    largest: bool = True,
    *_: Any,
) -> tuple[Any, Any]:
    values, places = _sort_along(x, dim, descending=largest)
    if not x.ndim:
        return values, places
    return tuple(lax.slice_in_dim(y, 0, k, axis=dim % x.ndim) for y in (values, places))  # pyright: ignore[reportReturnType]


@lowering("aten.kthvalue.default")
def _kthvalue(out: OutputInfo, x: Any, k: int, dim: int = -1, *_: Any) -> tuple[Any, ...]:
    pair = _sort_along(x, dim, descending=False)
    return tuple(_index_in_dim(y, k - 1, dim).reshape(out.shape) for y in pair)


def _index_in_dim(x: Any, index: int, dim: int) -> Any:
    return lax.index_in_dim(x, index, dim % x.ndim, keepdims=False) if x.ndim else x


@lowering("aten.median.default")
def _median(out: OutputInfo, x: Any) -> Any:
    if not x.size and jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.full((), jnp.nan, x.dtype)
    return _median_along(out, x.reshape(-1), 0)[0]


@lowering("aten.median.dim")
def _median_along(out: OutputInfo, x: Any, dim: int, *_: Any) -> tuple[Any, ...]:
    values, places = _sort_along(x, dim, descending=False)
    middle = (x.shape[dim] - 1) // 2 if x.ndim else 0
    missing = jnp.isnan(values)
    first = jnp.argmax(missing, dim, keepdims=True) if x.ndim else 0
    at = jnp.where(missing.any(dim, keepdims=True), first, middle) if x.ndim else 0
    if not x.ndim:
        return values, places
    pair = (jnp.take_along_axis(y, at, dim) for y in (values, places))
    return tuple(y.reshape(out.shape) for y in pair)


@lowering("aten.nanmedian.default")
def _nanmedian(out: OutputInfo, x: Any) -> Any:
    if not x.size:
        return _median(out, x)
    return _nanmedian_along(out, x.reshape(-1), 0)[0]


@lowering("aten.nanmedian.dim")
def _nanmedian_along(out: OutputInfo, x: Any, dim: int, *_: Any) -> tuple[Any, ...]:
    values, places = _sort_along(x, dim, descending=False)
    if not x.ndim:
        return values, places
    count = (~jnp.isnan(values)).sum(dim, keepdims=True)
    at = jnp.maximum(count - 1, 0) // 2
    pair = (jnp.take_along_axis(y, at, dim) for y in (values, places))
    return tuple(y.reshape(out.shape) for y in pair)


@lowering("aten.histc.default")
def _histogram(out: OutputInfo, x: Any, bins: int = 100, min: Any = 0, max: Any = 0) -> Any:
    x = x.reshape(-1)
    low, high = (x.min(), x.max()) if min == max and x.size else (cast(min, x.dtype), max)
    low, high = (jnp.where(low == high, end, y) for y, end in ((low, low - 1), (high, high + 1)))
    place = ((x - low) / (high - low) * bins).astype("int64")
    place = jnp.where((x >= low) & (x <= high), jnp.minimum(place, bins - 1), bins)
    return jnp.zeros(bins, out.dtype).at[place].add(1, mode="drop")


@lowering("aten.searchsorted.Tensor", "aten.searchsorted.Scalar")
def _searchsorted(
    out: OutputInfo,
    boundaries: Any,
    x: Any,
    *,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
    **_: Any,
) -> Any:
    boundaries = boundaries if sorter is None else jnp.take_along_axis(boundaries, sorter, -1)
    return _bisect(boundaries, jnp.asarray(x), right=side == "right" if side else right)


@lowering("aten.bucketize.Tensor", "aten.bucketize.Scalar")
def _bucketize(out: OutputInfo, x: Any, boundaries: Any, *, right: bool = False, **_: Any) -> Any:
    return _bisect(boundaries, jnp.asarray(x), right=right)


def _bisect(boundaries: Any, x: Any, *, right: bool) -> Any:
    """Return where `x` belongs among boundaries, in the steps of torch, which matter for NaN."""
    size = boundaries.shape[-1]

    def step(_: Any, ends: Any) -> Any:
        low, high = ends
        middle = (low + high) // 2
        at = jnp.minimum(middle, size - 1)
        y = boundaries[at] if boundaries.ndim == 1 else jnp.take_along_axis(boundaries, at, -1)
        after, open_ = ~(y > x if right else y >= x), low < high
        return jnp.where(open_ & after, middle + 1, low), jnp.where(open_ & ~after, middle, high)

    ends = jnp.zeros(x.shape, "int64"), jnp.full(x.shape, size, "int64")
    return lax.fori_loop(0, size.bit_length(), step, ends)[0] if size else ends[0]
