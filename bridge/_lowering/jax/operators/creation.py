"""Operators that make arrays, or convert their dtype."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, compute_in_float32, lowering


@lowering("aten._to_copy.default", "prims.convert_element_type.default", "aten.to.dtype")
def _to(out: OutputInfo, x: Any, *_: Any, **__: Any) -> Any:
    return cast(x, out.dtype)


@lowering(
    *("aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.contiguous.default"),
    *("aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.resolve_conj.default"),
    *("aten.resolve_neg.default", "prims.view_of.default", "prims.clone.default"),
)
def _same(out: OutputInfo, x: Any, **_: Any) -> Any:
    return x


@lowering("aten.copy.default")
def _copy(out: OutputInfo, x: Any, y: Any, *_: Any) -> Any:
    return jnp.broadcast_to(cast(y, out.dtype), out.shape)


@lowering(
    *("aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default"),
    *("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default"),
    *("aten.empty_strided.default", "aten.new_empty_strided.default"),
    *("aten.empty_permuted.default", "aten._new_zeros_with_same_feature_meta.default"),
    *("aten._efficientzerotensor.default", "prims.empty_strided.default", "aten.zero.default"),
)
def _zeros(out: OutputInfo, *_: Any, **__: Any) -> Any:
    return jnp.zeros(out.shape, out.dtype)


@lowering("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default")
def _ones(out: OutputInfo, *_: Any, **__: Any) -> Any:
    return jnp.ones(out.shape, out.dtype)


@lowering(
    *("aten.full.default", "aten.full_like.default", "aten.fill.Scalar", "aten.fill.Tensor"),
)
def _full(out: OutputInfo, _: Any, value: Any, **__: Any) -> Any:
    return jnp.broadcast_to(cast(value, out.dtype), out.shape)


@lowering("aten.new_full.default")
def _new_full(out: OutputInfo, _: Any, __: Any, value: Any, **___: Any) -> Any:
    return jnp.broadcast_to(cast(value, out.dtype), out.shape)


@lowering("aten.scalar_tensor.default", "prims.scalar_tensor.default")
def _scalar_tensor(out: OutputInfo, value: Any, **_: Any) -> Any:
    return cast(value, out.dtype)


@lowering("aten.arange.default")
def _arange(out: OutputInfo, _: Any, **__: Any) -> Any:
    return _steps(out, 0, 1)


@lowering("aten.arange.start", "aten.arange.start_step")
def _arange_from(out: OutputInfo, start: Any, _: Any, step: Any = 1, **__: Any) -> Any:
    return _steps(out, start, step)


@lowering("prims.iota.default")
def _iota(out: OutputInfo, length: int, *, start: Any, step: Any, **_: Any) -> Any:
    return _steps(out, start, step)


def _steps(out: OutputInfo, start: Any, step: Any) -> Any:
    if jnp.issubdtype(out.dtype, jnp.integer):  # torch converts before it counts
        start, step = int(start), int(step)
    count_dtype = jnp.float64 if isinstance(start, float) or isinstance(step, float) else jnp.int64
    n = lax.iota(count_dtype, out.shape[0])
    return cast(cast(start, count_dtype) + n * cast(step, count_dtype), out.dtype)


@lowering("aten.linspace.default")
@compute_in_float32
def _linspace(out: OutputInfo, start: Any, end: Any, steps: int, **_: Any) -> Any:
    if not jnp.issubdtype(out.dtype, jnp.integer):
        return jnp.linspace(start, end, steps, dtype=out.dtype)
    # Torch converts before it counts, from both ends, and cuts off what follows the point.
    start, end = (cast(jnp.int64(int(x)), out.dtype).astype("float64") for x in (start, end))
    step = (end - start) / max(steps - 1, 1)
    n = jnp.arange(steps, dtype="float64")
    return jnp.where(n < max(steps // 2, 1), start + step * n, end - step * (steps - 1 - n))


@lowering("aten.eye.default", "aten.eye.m")
def _eye(out: OutputInfo, *_: Any, **__: Any) -> Any:
    return jnp.eye(*out.shape, dtype=out.dtype)


@lowering("aten.tril_indices.default")
def _tril_indices(out: OutputInfo, rows: int, columns: int, offset: int = 0, **_: Any) -> Any:
    return jnp.stack(jnp.tril_indices(rows, offset, columns))


@lowering("aten.triu_indices.default")
def _triu_indices(out: OutputInfo, rows: int, columns: int, offset: int = 0, **_: Any) -> Any:
    return jnp.stack(jnp.triu_indices(rows, offset, columns))


@lowering("aten.view_as_real.default")
def _view_as_real(out: OutputInfo, x: Any) -> Any:
    return jnp.stack([jnp.real(x), jnp.imag(x)], -1)


@lowering("aten.view_as_complex.default")
def _view_as_complex(out: OutputInfo, x: Any) -> Any:
    return lax.complex(x[..., 0], x[..., 1])


@lowering("aten.view.dtype")
def _view_dtype(out: OutputInfo, x: Any, dtype: str) -> Any:
    if jnp.iscomplexobj(x) or jnp.issubdtype(out.dtype, jnp.complexfloating):
        return jax.lax.reshape(x.view(out.dtype), out.shape)
    return x.view(out.dtype)


@lowering(
    *("aten._assert_tensor_metadata.default", "aten._assert_async.msg"),
    *("aten._assert_async.default", "aten._linalg_check_errors.default"),
    *("aten._assert_scalar.default", "aten.sym_constrain_range.default"),
    "aten.sym_constrain_range_for_size.default",
)
def _check(out: OutputInfo, *_: Any, **__: Any) -> Sequence[None]:
    """A check that raises has no result; a program of XLA cannot raise."""
    return [None] * len(out.specs)
