"""Operators that read and write at places which arrays of integers tell.

NOTE [out of bounds]
Torch raises for an index that is out of bounds, which a program of XLA cannot do. What is read
there is NaN, or the least integer, and what is written there is dropped.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from bridge._core.errors import NoRuleError
from bridge._lowering.jax.operators.lowerings import (
    OutputInfo,
    cast,
    compute_in_float32,
    lowering,
    to_accumulation_dtype,
)

_READ: Any = {"mode": "fill"}
_WRITE: Any = {"mode": "drop"}


def _from_front(index: Any, size: int) -> Any:
    """Indices counted from the front, -1 being the last; others are out of bounds."""
    return jnp.where(index < 0, jnp.where(index < -size, size, index + size), index)


def _strict(index: Any, size: int) -> Any:
    """Indices of which negative ones are out of bounds."""
    return jnp.where(index < 0, size, index)


def _where(x: Any, indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        slice(None) if index is None else _from_front(index, x.shape[axis])
        for axis, index in enumerate(indices)
    )


@lowering("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _index(out: OutputInfo, x: Any, indices: Sequence[Any]) -> Any:
    return x.at[_where(x, indices)].get(**_READ)


@lowering(
    *("aten.index_put.default", "aten._index_put_impl.default"),
    "aten._unsafe_index_put.default",
)
def _index_put(
    out: OutputInfo,
    x: Any,
    indices: Sequence[Any],
    values: Any,
    accumulate: bool = False,
    *_: Any,
) -> Any:
    masks = [index for index in indices if index is not None and index.dtype == bool]
    if masks:
        return _masked_put(x, indices, values, accumulate=accumulate)
    at = (to_accumulation_dtype(x) if accumulate else x).at[_where(x, indices)]
    values = cast(values, x.dtype)
    return at.add(values, **_WRITE) if accumulate else at.set(values, **_WRITE)


def _masked_put(x: Any, indices: Sequence[Any], values: Any, *, accumulate: bool) -> Any:
    given = [index for index in indices if index is not None]
    if len(given) > 1 or values.size != 1:
        raise NoRuleError(
            "aten.index_put with a mask among several indices, or with several values, has no "
            "rule. Write it by torch.where."
        )
    first = next(i for i, index in enumerate(indices) if index is not None)
    mask = given[0].reshape(given[0].shape + (1,) * (x.ndim - first - given[0].ndim))
    value = cast(values, x.dtype).reshape(())
    return jnp.where(mask, x + value if accumulate else value, x)


@lowering("aten.index_select.default")
def _index_select(out: OutputInfo, x: Any, dim: int, index: Any) -> Any:
    if not x.ndim:
        return x
    return jnp.take(x, _strict(index.reshape(-1), x.shape[dim]), dim, **_READ)


@lowering("aten.take.default")
def _take(out: OutputInfo, x: Any, index: Any) -> Any:
    return x.reshape(-1).at[_from_front(index, x.size)].get(**_READ)


@lowering("aten.put.default")
def _put(out: OutputInfo, x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    at = (to_accumulation_dtype(x) if accumulate else x).reshape(-1).at[_from_front(index, x.size)]
    source = cast(source, x.dtype).reshape(index.shape)
    found = at.add(source, **_WRITE) if accumulate else at.set(source, **_WRITE)
    return found.reshape(x.shape)


def _grid(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """The places in `x` of an array like `index`, which are `index` along an axis."""
    places = [lax.broadcasted_iota(index.dtype, index.shape, axis) for axis in range(index.ndim)]
    places[dim] = _strict(index, x.shape[dim])
    return tuple(places)


@lowering("aten.gather.default")
def _gather(out: OutputInfo, x: Any, dim: int, index: Any, **_: Any) -> Any:
    if not x.ndim or not index.size:
        return jnp.zeros(out.shape, out.dtype) + (x if index.size else 0)
    if not index.ndim:
        index = index.reshape(1)
    return x.at[_grid(x, dim % x.ndim, index)].get(**_READ).reshape(out.shape)


def _scattered(x: Any, dim: int, index: Any, source: Any, write: Callable[..., Any]) -> Any:
    """`x` with a part of `source`, of the shape of `index`, written into it."""
    flat = jnp.atleast_1d(x)
    index = jnp.atleast_1d(index)
    source = cast(source, x.dtype)
    if source.ndim:
        source = source[tuple(slice(n) for n in index.shape)]
    found = write(flat.at[_grid(flat, dim % flat.ndim, index)], source)
    return found.reshape(x.shape)


@lowering("aten.scatter.src", "aten.scatter.value")
def _scatter(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scattered(x, dim, index, source, lambda at, y: at.set(y, **_WRITE))


@lowering("aten.scatter_add.default")
@compute_in_float32
def _scatter_add(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scattered(x, dim, index, source, lambda at, y: at.add(y, **_WRITE))


@lowering("aten.scatter.reduce", "aten.scatter.value_reduce")
@compute_in_float32
def _scatter_by(out: OutputInfo, x: Any, dim: int, index: Any, source: Any, *, reduce: str) -> Any:
    return _scatter_reduce(out, x, dim, index, source, _BY[reduce])


_BY = {"add": "sum", "multiply": "prod"}


@lowering("aten.scatter_reduce.two")
@compute_in_float32
def _scatter_reduce(
    out: OutputInfo,
    x: Any,
    dim: int,
    index: Any,
    source: Any,
    reduce: str,
    *,
    include_self: bool = True,
) -> Any:
    kept = x
    if not include_self:
        start = cast(_least(reduce, x.dtype), x.dtype)
        kept = _scattered(x, dim, index, start, lambda at, y: at.set(y, **_WRITE))
    found = _scattered(kept, dim, index, source, lambda at, y: _written(at, y, reduce))
    if reduce != "mean":
        return found
    ones = jnp.ones(jnp.shape(source), "int64")
    start = jnp.ones(x.shape, "int64")
    if not include_self:
        start = _scattered(start, dim, index, 0 * ones, lambda at, y: at.set(y, **_WRITE))
    count = _scattered(start, dim, index, ones, lambda at, y: at.add(y, **_WRITE))
    count = cast(jnp.maximum(count, 1), x.dtype)
    return found / count if jnp.issubdtype(x.dtype, jnp.inexact) else found // count


def _written(at: Any, y: Any, reduce: str) -> Any:
    names = {"sum": "add", "mean": "add", "prod": "multiply", "amax": "max", "amin": "min"}
    return getattr(at, names[reduce])(y, **_WRITE)


def _least(reduce: str, dtype: Any) -> Any:
    """What a reduction begins with."""
    if reduce in ("sum", "mean", "prod"):
        return int(reduce == "prod")
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf if reduce == "amax" else jnp.inf
    limits = jnp.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


def _along(x: Any, dim: int, index: Any) -> Any:
    return x.at[(*[slice(None)] * (dim % x.ndim), _strict(index.reshape(-1), x.shape[dim]))]


@lowering("aten.index_add.default")
@compute_in_float32
def _index_add(
    out: OutputInfo, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1
) -> Any:
    source = source * cast(alpha, x.dtype)
    if not x.ndim:
        return x + source.sum()
    return _along(x, dim, index).add(source, **_WRITE)


@lowering("aten.index_copy.default")
def _index_copy(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    if not x.ndim:
        return source.reshape(())
    return _along(x, dim, index).set(source, **_WRITE)


@lowering("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def _index_fill(out: OutputInfo, x: Any, dim: int, index: Any, value: Any) -> Any:
    if not x.ndim:
        return cast(value, x.dtype)
    return _along(x, dim, index).set(cast(value, x.dtype), **_WRITE)


@lowering("aten.masked_scatter.default")
def _masked_scatter(out: OutputInfo, x: Any, mask: Any, source: Any) -> Any:
    x, mask = jnp.broadcast_arrays(x, mask)
    place = jnp.cumsum(mask.reshape(-1)) - 1
    taken = source.reshape(-1).at[place].get(**_READ).reshape(x.shape)
    return jnp.where(mask, taken, x)


@lowering("aten.masked_scatter_backward.default")
def _masked_scatter_backward(
    out: OutputInfo, gradient: Any, mask: Any, sizes: Sequence[int]
) -> Any:
    gradient, mask = jnp.broadcast_arrays(gradient, mask)
    mask, count = mask.reshape(-1), math.prod(sizes)
    place = jnp.where(mask, jnp.cumsum(mask) - 1, count)
    return jnp.zeros(count, out.dtype).at[place].set(gradient.reshape(-1), **_WRITE).reshape(sizes)


@lowering("aten.index_reduce.default")
@compute_in_float32
def _index_reduce(
    out: OutputInfo,
    x: Any,
    dim: int,
    index: Any,
    source: Any,
    reduce: str,
    *,
    include_self: bool = True,
) -> Any:
    x, y = jnp.atleast_1d(x), jnp.atleast_1d(source)
    shape = [-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    index = jnp.broadcast_to(index.reshape(shape), y.shape)
    found = _scatter_reduce(out, x, dim, index, y, reduce, include_self=include_self)
    return found.reshape(out.shape)
