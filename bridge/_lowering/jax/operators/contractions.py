"""Operators that contract axes: products of matrices, convolutions, attention."""

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
def _addmm(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _add_scaled(
        x, jnp.matmul(a, b, preferred_element_type=accumulation_dtype(out.dtype)), beta, alpha
    )


@lowering("aten.addbmm.default")
def _addbmm(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    sums = {"preferred_element_type": accumulation_dtype(out.dtype)}
    return _add_scaled(x, jnp.einsum("bij,bjk->ik", a, b, **sums), beta, alpha)


@lowering("aten.addr.default")
@compute_in_float32
def _addr(out: OutputInfo, x: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    return _add_scaled(x, a[:, None] * b, beta, alpha)


def _add_scaled(x: Any, product: Any, beta: Any, alpha: Any) -> Any:
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
    window = [_per_axis(n, x.ndim - 2) for n in (stride, padding, dilation, output_padding)]
    batch = x.ndim == len(out.shape) and weight.ndim == x.ndim
    convolve = _convolve_transposed if transposed else _convolve
    y = convolve(x if batch else x[None], weight, *window, groups=groups)
    y = y if batch else y[0]
    return y if bias is None else y + bias.reshape(-1, *(1,) * (weight.ndim - 2))


def _per_axis(sizes: Sizes, count: int) -> Sizes:
    """Return a size for each axis, given one for all or one for each."""
    return tuple(sizes) * count if len(sizes) == 1 else tuple(sizes)


def _convolve(
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


def _convolve_transposed(
    x: Any, w: Any, stride: Sizes, padding: Sizes, dilation: Sizes, more: Sizes, *, groups: int
) -> Any:
    # In each group, swap inputs and outputs, and reverse the kernel.
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
    convolve = _convolve_transposed if transposed else _convolve
    window = [_per_axis(n, x.ndim - 2) for n in (stride, padding, dilation, output_padding)]
    gradients: list[Any] = [None, None, None]
    # A convolution is linear in each of its arguments, so that no value has to be computed.
    if mask[0]:
        gradients[0] = _pull_back(
            lambda x: convolve(x, weight, *window, groups=groups), x, gradient
        )
    if mask[1]:
        gradients[1] = _pull_back(
            lambda w: convolve(x, w, *window, groups=groups), weight, gradient
        )
    if mask[2]:
        gradients[2] = gradient.sum((0, *range(2, gradient.ndim)))
    return gradients


def _pull_back(linear: Callable[[Any], Any], at: Any, gradient: Any) -> Any:
    """Return the gradient of a linear function, in the convention of torch."""
    (cotangent,) = jax.linear_transpose(linear, at)(jnp.conj(gradient))
    return jnp.conj(cotangent)


def _scale(q: Any, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _weights(q: Any, k: Any, scale: float | None, causal: bool, mask: Any) -> tuple[Any, Any]:
    """Return the weights of attention, and the logarithm of the sum that normalizes them."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("...id,...jd->...ij", q, k, preferred_element_type=dtype)
    scores = scores * _scale(q, scale)
    if causal:
        rows, columns = scores.shape[-2:]
        scores = jnp.where(jnp.tril(jnp.ones((rows, columns), bool)), scores, -jnp.inf)
    if mask is not None:
        scores = scores + cast(mask, dtype)
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
    k, v = _repeat_heads(q, k), _repeat_heads(q, v)
    weights, total = _weights(q, k, scale, causal, attn_mask)
    return jnp.einsum("...ij,...jd->...id", weights, cast(v, weights.dtype)), total


def _repeat_heads(q: Any, x: Any) -> Any:
    """Repeat keys or values that several heads of queries share."""
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
    k, v = _repeat_heads(q, k), _repeat_heads(q, v)
    weights, _ = _weights(q, k, scale, causal, attn_mask)
    q, k, v, gradient = (cast(x, weights.dtype) for x in (q, k, v, gradient))
    by_value = jnp.einsum("...ij,...id->...jd", weights, gradient)
    by_weight = jnp.einsum("...id,...jd->...ij", gradient, v)
    by_score = weights * (by_weight - (weights * by_weight).sum(-1, keepdims=True))
    by_score = by_score * _scale(q, scale)
    by_query = jnp.einsum("...ij,...jd->...id", by_score, k)
    by_key = jnp.einsum("...ij,...id->...jd", by_score, q)
    return by_query, _sum_heads(by_key, heads), _sum_heads(by_value, heads)


def _sum_heads(gradient: Any, heads: int) -> Any:
    """Sum the gradient of repeated keys or values over the heads that share them."""
    batch, _, *shape = gradient.shape
    return gradient.reshape(batch, heads, -1, *shape).sum(2)


@lowering("aten._trilinear.default")
@compute_in_float32
def _trilinear(
    out: OutputInfo, a: Any, b: Any, c: Any, da: Sizes, db: Sizes, dc: Sizes, summed: Sizes, *_: Any
) -> Any:
    a, b, c = (jnp.expand_dims(x, d) for x, d in ((a, tuple(da)), (b, tuple(db)), (c, tuple(dc))))
    return jnp.sum(a * b * c, tuple(summed))
