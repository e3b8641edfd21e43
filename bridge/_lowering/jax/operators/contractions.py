"""Products of matrices, convolutions and attention."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from bridge._lowering.jax.operators.lowerings import (
    OutputInfo,
    accumulation_dtype,
    cast,
    compute_in_float32,
    lowering,
    to_accumulation_dtype,
)

Sizes = Sequence[int]


@lowering("aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
@lowering("aten.matmul.default")
def _matmul(out: OutputInfo, x: Any, y: Any, *_: Any) -> Any:
    return jnp.matmul(x, y)


@lowering("aten.vdot.default")
def _vdot(out: OutputInfo, x: Any, y: Any) -> Any:
    return jnp.vdot(x, y)


@lowering("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def _added(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(
        x, jnp.matmul(a, b, preferred_element_type=accumulation_dtype(out.dtype)), beta, alpha
    )


@lowering("aten.addbmm.default")
def _added_batch(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    sums = {"preferred_element_type": accumulation_dtype(out.dtype)}
    return _plus(x, jnp.einsum("bij,bjk->ik", a, b, **sums), beta, alpha)


@lowering("aten.addr.default")
@compute_in_float32
def _added_outer(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(x, a[:, None] * b, beta, alpha)


def _plus(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
    if alpha != 1:
        product = product * cast(alpha, product.dtype)
    if beta == 0:  # then torch does not look at x, which may be NaN
        return product
    x = to_accumulation_dtype(x)
    return product + (x if beta == 1 else x * cast(beta, product.dtype))


@lowering("aten.convolution.default")
def _convolution(
    out: OutputInfo,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> Any:
    how = [_all(n, x.ndim - 2) for n in (stride, padding, dilation, output_padding)]
    batch = x.ndim == len(out.shape) and weight.ndim == x.ndim
    convolve = _transposed if transposed else _direct
    found = convolve(x if batch else x[None], weight, *how, groups=groups)
    found = found if batch else found[0]
    return found if bias is None else found + bias.reshape(-1, *(1,) * (weight.ndim - 2))


def _all(sizes: Sizes, count: int) -> Sizes:
    """One size for all axes, or one for each."""
    return tuple(sizes) * count if len(sizes) == 1 else tuple(sizes)


def _direct(
    x: Any, w: Any, stride: Sizes, padding: Sizes, dilation: Sizes, _: Sizes, *, groups: int
) -> Any:
    return lax.conv_general_dilated(
        x,
        w,
        stride,
        [(p, p) for p in padding],
        rhs_dilation=dilation,
        feature_group_count=groups,
    )


def _transposed(
    x: Any, w: Any, stride: Sizes, padding: Sizes, dilation: Sizes, more: Sizes, *, groups: int
) -> Any:
    # Of each group, inputs and outputs change places, and the kernel is read backwards.
    inputs, outputs, *kernel = w.shape
    w = w.reshape(groups, inputs // groups, outputs, *kernel)
    w = jnp.swapaxes(w, 1, 2).reshape(groups * outputs, inputs // groups, *kernel)
    w = jnp.flip(w, tuple(range(2, w.ndim)))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = [(r - p, r - p + m) for r, p, m in zip(reach, padding, more, strict=True)]
    return lax.conv_general_dilated(
        x,
        w,
        (1,) * len(kernel),
        sides,
        lhs_dilation=stride,
        rhs_dilation=dilation,
        feature_group_count=groups,
    )


@lowering("aten.convolution_backward.default")
def _convolution_backward(
    out: OutputInfo,
    gradient: Any,
    x: Any,
    weight: Any,
    _: Any,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
    mask: Sequence[bool],
) -> list[Any]:
    convolve = _transposed if transposed else _direct
    how = [_all(n, x.ndim - 2) for n in (stride, padding, dilation, output_padding)]
    found: list[Any] = [None, None, None]
    # A convolution is linear in each of its arguments, so that no value has to be computed.
    if mask[0]:
        found[0] = _pulled(lambda x: convolve(x, weight, *how, groups=groups), x, gradient)
    if mask[1]:
        found[1] = _pulled(lambda w: convolve(x, w, *how, groups=groups), weight, gradient)
    if mask[2]:
        found[2] = gradient.sum((0, *range(2, gradient.ndim)))
    return found


def _pulled(linear: Callable[[Any], Any], at: Any, gradient: Any) -> Any:
    """The gradient, as torch has it, of a linear function."""
    (found,) = jax.linear_transpose(linear, at)(jnp.conj(gradient))
    return jnp.conj(found)


def _scale(q: Any, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _weights(q: Any, k: Any, scale: float | None, causal: bool, mask: Any) -> tuple[Any, Any]:
    """The weights of attention, and the logarithm of the sum that they were divided by."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("...id,...jd->...ij", q, k, preferred_element_type=wide)
    scores = scores * _scale(q, scale)
    if causal:
        rows, columns = scores.shape[-2:]
        scores = jnp.where(jnp.tril(jnp.ones((rows, columns), bool)), scores, -jnp.inf)
    if mask is not None:
        scores = scores + cast(mask, wide)
    total = jax.nn.logsumexp(scores, -1, keepdims=True)
    finite = jnp.where(jnp.isfinite(total), total, 0)
    return jnp.exp(scores - finite), total[..., 0]


@lowering("aten._scaled_dot_product_flash_attention_for_cpu.default")
def _attention(
    out: OutputInfo,
    q: Any,
    k: Any,
    v: Any,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> tuple[Any, Any]:
    del dropout  # which torch refuses here
    k, v = _shared(q, k), _shared(q, v)
    weights, total = _weights(q, k, scale, causal, attn_mask)
    return jnp.einsum("...ij,...jd->...id", weights, cast(v, weights.dtype)), total


def _shared(q: Any, x: Any) -> Any:
    """Keys or values, repeated where several heads of queries share them."""
    heads = q.shape[1] // x.shape[1]
    return x if heads == 1 else jnp.repeat(x, heads, 1)


@lowering("aten._scaled_dot_product_flash_attention_for_cpu_backward.default")
def _attention_backward(
    out: OutputInfo,
    gradient: Any,
    q: Any,
    k: Any,
    v: Any,
    y: Any,
    _: Any,
    dropout: float,
    causal: bool,
    *,
    attn_mask: Any = None,
    scale: float | None = None,
) -> tuple[Any, ...]:
    del y, dropout
    heads = k.shape[1]
    k, v = _shared(q, k), _shared(q, v)
    weights, _ = _weights(q, k, scale, causal, attn_mask)
    q, k, v, gradient = (cast(x, weights.dtype) for x in (q, k, v, gradient))
    by_value = jnp.einsum("...ij,...id->...jd", weights, gradient)
    by_weight = jnp.einsum("...id,...jd->...ij", gradient, v)
    moved = weights * (by_weight - (weights * by_weight).sum(-1, keepdims=True))
    moved = moved * _scale(q, scale)
    by_query = jnp.einsum("...ij,...jd->...id", moved, k)
    by_key = jnp.einsum("...ij,...id->...jd", moved, q)
    return by_query, _added_up(by_key, heads), _added_up(by_value, heads)


def _added_up(gradient: Any, heads: int) -> Any:
    """The gradient of keys or values from that of what several heads of queries share."""
    batch, _, *shape = gradient.shape
    return gradient.reshape(batch, heads, -1, *shape).sum(2)


@lowering("aten._trilinear.default")
@compute_in_float32
def _trilinear(
    out: OutputInfo, a: Any, b: Any, c: Any, da: Sizes, db: Sizes, dc: Sizes, summed: Sizes, *_: Any
) -> Any:
    a, b, c = (jnp.expand_dims(x, d) for x, d in ((a, tuple(da)), (b, tuple(db)), (c, tuple(dc))))
    return jnp.sum(a * b * c, tuple(summed))
