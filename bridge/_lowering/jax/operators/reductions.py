"""Operators that reduce axes, or accumulate along one."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, compute_in_float32, lowering

Dims = int | Sequence[int] | None


def _axes(x: Any, dim: Dims) -> tuple[int, ...]:
    """Return the axes to reduce: all, if none are named."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return tuple(d % x.ndim for d in dims) if x.ndim and dims else tuple(range(x.ndim))


def _reduce(out: OutputInfo, x: Any, compute: Callable[..., Any], dim: Dims) -> Any:
    return compute(x, axis=_axes(x, dim)).reshape(out.shape)


@lowering("aten.sum.default", "aten.sum.dim_IntList", "prims.sum.default")
@compute_in_float32
def _sum(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, cast(x, out.dtype), jnp.sum, dim)


@lowering("aten.nansum.default")
@compute_in_float32
def _nansum(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, cast(x, out.dtype), jnp.nansum, dim)


@lowering("aten.mean.default", "aten.mean.dim")
@compute_in_float32
def _mean(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, cast(x, out.dtype), jnp.mean, dim)


@lowering("aten.prod.default", "aten.prod.dim_int", "prims.prod.default")
@compute_in_float32
def _prod(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, cast(x, out.dtype), jnp.prod, dim)


@lowering("aten.amax.default", "aten.max.default", "prims.amax.default")
def _amax(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, x, jnp.max, dim)


@lowering("aten.amin.default", "aten.min.default", "prims.amin.default")
def _amin(out: OutputInfo, x: Any, dim: Dims = None, *_: Any, **__: Any) -> Any:
    return _reduce(out, x, jnp.min, dim)


@lowering("aten.aminmax.default")
def _aminmax(out: OutputInfo, x: Any, *, dim: Dims = None, **_: Any) -> tuple[Any, Any]:
    return _reduce(out, x, jnp.min, dim), _reduce(out, x, jnp.max, dim)


@lowering("aten.all.default", "aten.all.dim", "aten.all.dims")
def _all(out: OutputInfo, x: Any, dim: Dims = None, *_: Any) -> Any:
    return _reduce(out, x, jnp.all, dim)


@lowering("aten.any.default", "aten.any.dim", "aten.any.dims")
def _any(out: OutputInfo, x: Any, dim: Dims = None, *_: Any) -> Any:
    return _reduce(out, x, jnp.any, dim)


@lowering("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def _count(out: OutputInfo, x: Any, dim: Dims = None) -> Any:
    return _reduce(out, (x != 0).astype("int64"), jnp.sum, dim)


@lowering("aten.logsumexp.default")
@compute_in_float32
def _logsumexp(out: OutputInfo, x: Any, dim: Dims, *_: Any) -> Any:
    return _reduce(out, cast(x, out.dtype), jax.nn.logsumexp, dim)


@lowering("aten.argmax.default")
def _argmax(out: OutputInfo, x: Any, dim: int | None = None, *_: Any) -> Any:
    return _arg_reduce(out, x, jnp.argmax, dim)


@lowering("aten.argmin.default")
def _argmin(out: OutputInfo, x: Any, dim: int | None = None, *_: Any) -> Any:
    return _arg_reduce(out, x, jnp.argmin, dim)


def _arg_reduce(out: OutputInfo, x: Any, compute: Callable[..., Any], dim: int | None) -> Any:
    positions = compute(x.reshape(-1)) if dim is None or not x.ndim else compute(x, axis=dim)
    return positions.reshape(out.shape)


@lowering("aten.max.dim")
def _max_and_place(out: OutputInfo, x: Any, dim: int, *_: Any) -> tuple[Any, Any]:
    return _reduce(out, x, jnp.max, dim), _arg_reduce(out, x, jnp.argmax, dim)


@lowering("aten.min.dim")
def _min_and_place(out: OutputInfo, x: Any, dim: int, *_: Any) -> tuple[Any, Any]:
    return _reduce(out, x, jnp.min, dim), _arg_reduce(out, x, jnp.argmin, dim)


def _variance_and_mean(x: Any, dim: Dims, correction: Any) -> tuple[Any, Any]:
    """Return variance and mean, with reduced axes of size 1."""
    axes = _axes(x, dim)
    count = math.prod(x.shape[axis] for axis in axes)
    mean = jnp.mean(x, axes, keepdims=True)
    deviation = x - mean
    squares = jnp.sum(jnp.real(deviation * jnp.conj(deviation)), axes, keepdims=True)
    free = max(count - (1 if correction is None else correction), 0)
    return squares / jnp.asarray(free, squares.dtype), mean


@lowering("aten.var.correction", "prims.var.default")
@compute_in_float32
def _var(out: OutputInfo, x: Any, dim: Dims = None, correction: Any = None, **_: Any) -> Any:
    return _variance_and_mean(x, dim, correction)[0].reshape(out.shape)


@lowering("aten.std.correction")
@compute_in_float32
def _std(out: OutputInfo, x: Any, dim: Dims = None, correction: Any = None, **_: Any) -> Any:
    return jnp.sqrt(_variance_and_mean(x, dim, correction)[0]).reshape(out.shape)


@lowering("aten.var_mean.correction")
@compute_in_float32
def _var_mean(
    out: OutputInfo, x: Any, dim: Dims = None, correction: Any = None, **_: Any
) -> tuple[Any, Any]:
    variance, mean = _variance_and_mean(x, dim, correction)
    return variance.reshape(out.shape), mean.reshape(out.shape)


@lowering("aten.std_mean.correction")
@compute_in_float32
def _std_mean(
    out: OutputInfo, x: Any, dim: Dims = None, correction: Any = None, **_: Any
) -> tuple[Any, Any]:
    variance, mean = _variance_and_mean(x, dim, correction)
    return jnp.sqrt(variance).reshape(out.shape), mean.reshape(out.shape)


@lowering("aten.linalg_vector_norm.default")
@compute_in_float32
def _vector_norm(
    out: OutputInfo, x: Any, order: Any = 2, dim: Dims = None, *_: Any, **__: Any
) -> Any:
    values = cast(x, jnp.result_type(x, out.dtype))
    sizes = jnp.abs(values).astype(out.dtype)
    if order == math.inf:
        return _reduce(out, sizes, jnp.max, dim)
    if order == -math.inf:
        return _reduce(out, sizes, jnp.min, dim)
    if order == 0:
        return _reduce(out, (sizes != 0).astype(out.dtype), jnp.sum, dim)
    if order == 1:
        return _reduce(out, sizes, jnp.sum, dim)
    if order == _EUCLIDEAN:
        return jnp.sqrt(_reduce(out, sizes * sizes, jnp.sum, dim))
    return _reduce(out, sizes**order, jnp.sum, dim) ** (1 / order)


_EUCLIDEAN = 2


@lowering("aten._softmax.default", "aten.softmax.int")
@compute_in_float32
def _softmax(out: OutputInfo, x: Any, dim: int, *_: Any) -> Any:
    x = cast(x, out.dtype)
    return jax.nn.softmax(x, dim) if x.ndim else jnp.ones_like(x)


@lowering("aten._log_softmax.default", "aten.log_softmax.int")
@compute_in_float32
def _log_softmax(out: OutputInfo, x: Any, dim: int, *_: Any) -> Any:
    x = cast(x, out.dtype)
    return jax.nn.log_softmax(x, dim) if x.ndim else jnp.zeros_like(x)


@lowering("aten._softmax_backward_data.default")
@compute_in_float32
def _softmax_backward(out: OutputInfo, gradient: Any, y: Any, dim: int, *_: Any) -> Any:
    products = gradient * y
    total = jnp.sum(products, dim, keepdims=True) if y.ndim else products
    return products - y * total


@lowering("aten._log_softmax_backward_data.default")
@compute_in_float32
def _log_softmax_backward(out: OutputInfo, gradient: Any, y: Any, dim: int, *_: Any) -> Any:
    total = jnp.sum(gradient, dim, keepdims=True) if y.ndim else gradient
    return gradient - jnp.exp(y) * total


def _apply_cumulative(x: Any, dim: int, compute: Callable[..., Any]) -> Any:
    return compute(x, axis=dim % x.ndim) if x.ndim else x


@lowering("aten.cumsum.default")
@compute_in_float32
def _cumsum(out: OutputInfo, x: Any, dim: int, **_: Any) -> Any:
    return _apply_cumulative(cast(x, out.dtype), dim, lax.cumsum)


@lowering("aten.cumprod.default")
@compute_in_float32
def _cumprod(out: OutputInfo, x: Any, dim: int, **_: Any) -> Any:
    return _apply_cumulative(cast(x, out.dtype), dim, lax.cumprod)


@lowering("aten.logcumsumexp.default")
@compute_in_float32
def _logcumsumexp(out: OutputInfo, x: Any, dim: int) -> Any:
    return _apply_cumulative(x, dim, lax.cumlogsumexp)


@lowering("aten.cummax.default")
def _cummax(out: OutputInfo, x: Any, dim: int) -> tuple[Any, Any]:
    return _cumulative_extreme(x, dim, jnp.greater_equal)


@lowering("aten.cummin.default")
def _cummin(out: OutputInfo, x: Any, dim: int) -> tuple[Any, Any]:
    return _cumulative_extreme(x, dim, jnp.less_equal)


def _cumulative_extreme(x: Any, dim: int, better: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the extreme value so far, and the last position where it was."""
    if not x.ndim:
        return x, jnp.zeros((), "int64")
    axis = dim % x.ndim

    def later(a: Any, b: Any) -> Any:
        takes = better(b[0], a[0]) | jnp.isnan(b[0])
        takes &= ~(jnp.isnan(a[0]) & ~jnp.isnan(b[0]))
        return jnp.where(takes, b[0], a[0]), jnp.where(takes, b[1], a[1])

    places = lax.broadcasted_iota("int64", x.shape, axis)
    return lax.associative_scan(later, (x, places), axis=axis)
