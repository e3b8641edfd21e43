"""Operators that view, join and split arrays."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, lowering

_LAST = 2**63 - 1


@lowering(
    *("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"),
    *("aten._reshape_alias.default", "aten.view_copy.default", "prims.reshape.default"),
    *("prims.collapse_view.default", "prims.split_dim.default", "prims.collapse.default"),
    *("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "prims.squeeze.default"),
    *("aten.unsqueeze.default", "aten.unflatten.int", "aten.flatten.using_ints"),
)
def _reshape(out: OutputInfo, x: Any, *_: Any) -> Any:
    return jnp.reshape(x, out.shape)


@lowering("aten.permute.default", "prims.transpose.default")
def _permute(out: OutputInfo, x: Any, axes: Sequence[int]) -> Any:
    return jnp.transpose(x, axes) if x.ndim else x


@lowering("aten.transpose.int")
def _transpose(out: OutputInfo, x: Any, first: int, second: int) -> Any:
    return jnp.swapaxes(x, first, second) if x.ndim else x


@lowering("aten.t.default")
def _t(out: OutputInfo, x: Any) -> Any:
    return x.T


@lowering("aten.expand.default", "aten.broadcast_to.default")
def _expand(out: OutputInfo, x: Any, _: Sequence[int], **__: Any) -> Any:
    return jnp.broadcast_to(x, out.shape)


@lowering("prims.broadcast_in_dim.default")
def _broadcast_in_dim(out: OutputInfo, x: Any, shape: Sequence[int], axes: Sequence[int]) -> Any:
    return lax.broadcast_in_dim(x, tuple(shape), tuple(axes))


def _bounds(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Return start and stop of a slice, counted from the front."""
    begin, stop, _ = slice(start, end).indices(size)
    return begin, max(begin, stop)


def _index(x: Any, dim: int, which: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * (dim % x.ndim), which)


@lowering("aten.slice.Tensor")
def _slice(
    out: OutputInfo, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    begin, stop = _bounds(x.shape[dim], start, end)
    return lax.slice_in_dim(x, begin, stop, step, dim % x.ndim)


@lowering("aten.select.int")
def _select(out: OutputInfo, x: Any, dim: int, index: int) -> Any:
    return lax.index_in_dim(x, index, dim % x.ndim, keepdims=False)


@lowering("aten.narrow.default")
def _narrow(out: OutputInfo, x: Any, dim: int, start: int, length: int) -> Any:
    return _slice(out, x, dim, start, start % max(x.shape[dim], 1) + length)


@lowering("aten.slice_scatter.default")
def _slice_scatter(
    out: OutputInfo, x: Any, y: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    begin, stop = _bounds(x.shape[dim], start, end)
    return x.at[_index(x, dim, slice(begin, stop, step))].set(y)


@lowering("aten.select_scatter.default")
def _select_scatter(out: OutputInfo, x: Any, y: Any, dim: int, index: int) -> Any:
    return x.at[_index(x, dim, index)].set(y)


@lowering("aten.slice_backward.default")
def _slice_backward(
    out: OutputInfo, gradient: Any, sizes: Any, dim: int, start: int, end: int, step: int
) -> Any:
    return _slice_scatter(out, jnp.zeros(sizes, out.dtype), gradient, dim, start, end, step)


@lowering("aten.select_backward.default")
def _select_backward(out: OutputInfo, gradient: Any, sizes: Any, dim: int, index: int) -> Any:
    return _select_scatter(out, jnp.zeros(sizes, out.dtype), gradient, dim, index)


@lowering("aten.split.Tensor")
def _split(out: OutputInfo, x: Any, size: int, dim: int = 0) -> list[Any]:
    return _split_with_sizes(out, x, [spec.shape[dim] for spec in out.specs if spec], dim)


@lowering("aten.split_with_sizes.default")
def _split_with_sizes(out: OutputInfo, x: Any, sizes: Sequence[int], dim: int = 0) -> list[Any]:
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), dim)


@lowering("aten.unbind.int")
def _unbind(out: OutputInfo, x: Any, dim: int = 0) -> list[Any]:
    return [lax.index_in_dim(x, i, dim % x.ndim, keepdims=False) for i in range(x.shape[dim])]


@lowering("aten.cat.default")
def _cat(out: OutputInfo, xs: Sequence[Any], dim: int = 0) -> Any:
    # Torch ignores an empty tensor of one axis, whatever the shape of the others.
    rows = [cast(x, out.dtype) for x in xs if x.shape != (0,) or len(out.shape) == 1]
    return jnp.concatenate(rows, dim) if rows else jnp.zeros(out.shape, out.dtype)


@lowering("aten.stack.default")
def _stack(out: OutputInfo, xs: Sequence[Any], dim: int = 0) -> Any:
    return jnp.stack([cast(x, out.dtype) for x in xs], dim)


@lowering("aten.flip.default", "prims.rev.default")
def _flip(out: OutputInfo, x: Any, dims: Sequence[int]) -> Any:
    return jnp.flip(x, tuple(dims))


@lowering("aten.roll.default")
def _roll(out: OutputInfo, x: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x, shifts[0])


@lowering("aten.repeat.default")
def _repeat(out: OutputInfo, x: Any, repeats: Sequence[int]) -> Any:
    return jnp.tile(x, tuple(repeats))


@lowering("aten.diagonal.default")
def _diagonal(out: OutputInfo, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return jnp.diagonal(x, offset, dim1, dim2)


@lowering("aten.diagonal_scatter.default")
def _diagonal_scatter(
    out: OutputInfo, x: Any, y: Any, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Any:
    where = jnp.diagonal(_positions(x.shape), offset, dim1, dim2)
    return _write(x, where, y)


@lowering("aten.diagonal_backward.default")
def _diagonal_backward(
    out: OutputInfo, gradient: Any, sizes: Sequence[int], offset: int, dim1: int, dim2: int
) -> Any:
    return _diagonal_scatter(out, jnp.zeros(sizes, out.dtype), gradient, offset, dim1, dim2)


def _positions(shape: Sequence[int]) -> Any:
    return jnp.arange(math.prod(shape)).reshape(shape)


def _write(x: Any, positions: Any, y: Any) -> Any:
    """Write `y` into `x` at these positions of its elements, counted row by row."""
    return x.reshape(-1).at[positions].set(cast(y, x.dtype)).reshape(x.shape)


def _memory_positions(size: Sequence[int], stride: Sequence[int], offset: int | None) -> Any:
    """Return the positions in memory of the elements of a tensor."""
    steps = [np.arange(n) * by for n, by in zip(size, stride, strict=True)]
    return sum(np.ix_(*steps), np.array(offset or 0)) if steps else np.array(offset or 0)


@lowering("aten.as_strided.default")
def _as_strided(out: OutputInfo, x: Any, size: Any, stride: Any, offset: int | None = None) -> Any:
    return x.reshape(-1)[_memory_positions(size, stride, offset)]


@lowering("aten.as_strided_scatter.default")
def _as_strided_scatter(
    out: OutputInfo, x: Any, y: Any, size: Any, stride: Any, offset: int | None = None
) -> Any:
    return _write(x, _memory_positions(size, stride, offset), y)


@lowering("aten.tril.default")
def _tril(out: OutputInfo, x: Any, diagonal: int = 0) -> Any:
    return jnp.tril(x, diagonal)


@lowering("aten.triu.default")
def _triu(out: OutputInfo, x: Any, diagonal: int = 0) -> Any:
    return jnp.triu(x, diagonal)


@lowering("aten.unfold.default")
def _unfold(out: OutputInfo, x: Any, dim: int, size: int, step: int) -> Any:
    if not x.ndim:
        return x.reshape(out.shape)
    dim = dim % x.ndim
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    windows = jnp.take(x, starts[:, None] + np.arange(size), dim)
    return jnp.moveaxis(windows, dim + 1, -1)


@lowering("aten.constant_pad_nd.default")
def _pad(out: OutputInfo, x: Any, padding: Sequence[int], value: Any = 0) -> Any:
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    rows = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    return lax.pad(x, cast(value, out.dtype), [(low, high, 0) for low, high in rows])
