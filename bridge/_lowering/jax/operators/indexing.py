"""Operators that read and write at positions that arrays of integers hold.

NOTE [out of bounds]
Torch raises for an index that is out of bounds, which a program of XLA cannot do. A read there
gives NaN, or the least integer, and a write there is dropped.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from bridge._core.errors import NoRuleError
from bridge._lowering.jax.operators.bounds import READ, WRITE, negative_out_of_bounds
from bridge._lowering.jax.operators.lowerings import (
    OutputInfo,
    cast,
    compute_in_float32,
    lowering,
    to_accumulation_dtype,
)


def _from_front(index: Any, size: int) -> Any:
    """Return indices counted from the front, where -1 is the last; others are out of bounds."""
    return jnp.where(index < 0, jnp.where(index < -size, size, index + size), index)


def _indices_from_front(x: Any, indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        slice(None) if index is None else _from_front(index, x.shape[axis])
        for axis, index in enumerate(indices)
    )


@lowering("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _index(out: OutputInfo, x: Any, indices: Sequence[Any]) -> Any:
    return x.at[_indices_from_front(x, indices)].get(**READ)


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
        return _masked_fill(x, indices, values, accumulate=accumulate)
    at = (to_accumulation_dtype(x) if accumulate else x).at[_indices_from_front(x, indices)]
    values = cast(values, x.dtype)
    return at.add(values, **WRITE) if accumulate else at.set(values, **WRITE)


def _masked_fill(x: Any, indices: Sequence[Any], values: Any, *, accumulate: bool) -> Any:
    arrays = [index for index in indices if index is not None]
    if len(arrays) > 1 or values.size != 1:
        raise NoRuleError(
            "aten.index_put with a mask among several indices, or with several values, has no "
            "lowering. Write it with torch.where."
        )
    first = next(i for i, index in enumerate(indices) if index is not None)
    mask = arrays[0].reshape(arrays[0].shape + (1,) * (x.ndim - first - arrays[0].ndim))
    value = cast(values, x.dtype).reshape(())
    return jnp.where(mask, x + value if accumulate else value, x)


@lowering("aten.index_select.default")
def _index_select(out: OutputInfo, x: Any, dim: int, index: Any) -> Any:
    if not x.ndim:
        return x
    return jnp.take(x, negative_out_of_bounds(index.reshape(-1), x.shape[dim]), dim, **READ)


@lowering("aten.take.default")
def _take(out: OutputInfo, x: Any, index: Any) -> Any:
    return x.reshape(-1).at[_from_front(index, x.size)].get(**READ)


@lowering("aten.put.default")
def _put(out: OutputInfo, x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    at = (to_accumulation_dtype(x) if accumulate else x).reshape(-1).at[_from_front(index, x.size)]
    source = cast(source, x.dtype).reshape(index.shape)
    result = at.add(source, **WRITE) if accumulate else at.set(source, **WRITE)
    return result.reshape(x.shape)


def _grid(x: Any, dim: int, index: Any) -> tuple[Any, ...]:
    """Return positions in `x` of an array shaped like `index`: `index` itself along `dim`."""
    places = [lax.broadcasted_iota(index.dtype, index.shape, axis) for axis in range(index.ndim)]
    places[dim] = negative_out_of_bounds(index, x.shape[dim])
    return tuple(places)


@lowering("aten.gather.default")
def _gather(out: OutputInfo, x: Any, dim: int, index: Any, **_: Any) -> Any:
    if not x.ndim or not index.size:
        return jnp.zeros(out.shape, out.dtype) + (x if index.size else 0)
    if not index.ndim:
        index = index.reshape(1)
    return x.at[_grid(x, dim % x.ndim, index)].get(**READ).reshape(out.shape)


def _scatter_into(x: Any, dim: int, index: Any, source: Any, write: Callable[..., Any]) -> Any:
    """Write the part of `source` that has the shape of `index` into `x`."""
    flat = jnp.atleast_1d(x)
    index = jnp.atleast_1d(index)
    source = cast(source, x.dtype)
    if source.ndim:
        source = source[tuple(slice(n) for n in index.shape)]
    result = write(flat.at[_grid(flat, dim % flat.ndim, index)], source)
    return result.reshape(x.shape)


@lowering("aten.scatter.src", "aten.scatter.value")
def _scatter(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scatter_into(x, dim, index, source, lambda at, y: at.set(y, **WRITE))


@lowering("aten.scatter_add.default")
@compute_in_float32
def _scatter_add(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    return _scatter_into(x, dim, index, source, lambda at, y: at.add(y, **WRITE))


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
    base = x
    if not include_self:
        start = cast(_initial_value(reduce, x.dtype), x.dtype)
        base = _scatter_into(x, dim, index, start, lambda at, y: at.set(y, **WRITE))
    result = _scatter_into(base, dim, index, source, lambda at, y: _write_reduced(at, y, reduce))
    if reduce != "mean":
        return result
    ones = jnp.ones(jnp.shape(source), "int64")
    start = jnp.ones(x.shape, "int64")
    if not include_self:
        start = _scatter_into(start, dim, index, 0 * ones, lambda at, y: at.set(y, **WRITE))
    count = _scatter_into(start, dim, index, ones, lambda at, y: at.add(y, **WRITE))
    count = cast(jnp.maximum(count, 1), x.dtype)
    return result / count if jnp.issubdtype(x.dtype, jnp.inexact) else result // count


def _write_reduced(at: Any, y: Any, reduce: str) -> Any:
    names = {"sum": "add", "mean": "add", "prod": "multiply", "amax": "max", "amin": "min"}
    return getattr(at, names[reduce])(y, **WRITE)


def _initial_value(reduce: str, dtype: Any) -> Any:
    """Return the value that a reduction starts from."""
    if reduce in ("sum", "mean", "prod"):
        return int(reduce == "prod")
    if jnp.issubdtype(dtype, jnp.inexact):
        return -jnp.inf if reduce == "amax" else jnp.inf
    limits = jnp.iinfo(dtype)
    return limits.min if reduce == "amax" else limits.max


def _at_rows(x: Any, dim: int, index: Any) -> Any:
    return x.at[
        (*[slice(None)] * (dim % x.ndim), negative_out_of_bounds(index.reshape(-1), x.shape[dim]))
    ]


@lowering("aten.index_add.default")
@compute_in_float32
def _index_add(
    out: OutputInfo, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1
) -> Any:
    source = source * cast(alpha, x.dtype)
    if not x.ndim:
        return x + source.sum()
    return _at_rows(x, dim, index).add(source, **WRITE)


@lowering("aten.index_copy.default")
def _index_copy(out: OutputInfo, x: Any, dim: int, index: Any, source: Any) -> Any:
    if not x.ndim:
        return source.reshape(())
    return _at_rows(x, dim, index).set(source, **WRITE)


@lowering("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def _index_fill(out: OutputInfo, x: Any, dim: int, index: Any, value: Any) -> Any:
    if not x.ndim:
        return cast(value, x.dtype)
    return _at_rows(x, dim, index).set(cast(value, x.dtype), **WRITE)


@lowering("aten.masked_scatter.default")
def _masked_scatter(out: OutputInfo, x: Any, mask: Any, source: Any) -> Any:
    x, mask = jnp.broadcast_arrays(x, mask)
    place = jnp.cumsum(mask.reshape(-1)) - 1
    values = source.reshape(-1).at[place].get(**READ).reshape(x.shape)
    return jnp.where(mask, values, x)


@lowering("aten.masked_scatter_backward.default")
def _masked_scatter_backward(
    out: OutputInfo, gradient: Any, mask: Any, sizes: Sequence[int]
) -> Any:
    gradient, mask = jnp.broadcast_arrays(gradient, mask)
    mask, count = mask.reshape(-1), math.prod(sizes)
    place = jnp.where(mask, jnp.cumsum(mask) - 1, count)
    return jnp.zeros(count, out.dtype).at[place].set(gradient.reshape(-1), **WRITE).reshape(sizes)


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
    result = _scatter_reduce(out, x, dim, index, y, reduce, include_self=include_self)
    return result.reshape(out.shape)
