"""Elementwise operators of one array."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, compute_in_float32, lowering

Function = Callable[..., Any]


def _sign(x: Any) -> Any:
    if x.dtype == jnp.bool_:
        return x
    return (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)


def _sgn(x: Any) -> Any:
    if not jnp.iscomplexobj(x):
        return _sign(x)
    size = jnp.abs(x)
    return jnp.where(size == 0, 0, x / jnp.where(size == 0, 1, size))


def _angle(x: Any) -> Any:
    if jnp.iscomplexobj(x):
        return jnp.angle(x)
    return jnp.where(jnp.isnan(x), x, jnp.where(x < 0, jnp.pi, 0))


def _digamma(x: Any) -> Any:
    return jnp.where(x == 0, jnp.copysign(jnp.inf, -x), lax.digamma(x))


def _erfcx(x: Any) -> Any:
    """Return exp(x**2) erfc(x), by its asymptotic series where erfc would underflow."""
    far = 5 if x.dtype == jnp.float32 else 10
    z = 1 / (2 * jnp.where(x > far, x, 1) ** 2)
    series = jnp.ones_like(x)
    for n in range(12, 0, -1):
        series = 1 - (2 * n - 1) * z * series
    near = jnp.where(x > far, 0, x)
    series = series / (jnp.where(x > far, x, 1) * math.sqrt(math.pi))
    return jnp.where(x > far, series, jnp.exp(near * near) * lax.erfc(near))


_SAME_NAMES = (
    *("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "exp2", "expm1", "log", "log2", "log10"),
    *("log1p", "sqrt", "floor", "ceil", "trunc", "round", "square", "positive", "sinc", "conj"),
    *("deg2rad", "rad2deg"),
)
# They compute in the dtype of their results.
_FUNCTIONS: dict[str, Function] = {
    **{name: getattr(jnp, name) for name in _SAME_NAMES},
    **{f"a{name}": getattr(jnp, f"arc{name}") for name in ("sin", "cos", "tan")},
    **{f"a{name}": getattr(jnp, f"arc{name}") for name in ("sinh", "cosh", "tanh")},
    **dict.fromkeys(("neg", "_neg_view"), jnp.negative),
    **dict.fromkeys(("_conj", "conj_physical", "_conj_physical"), jnp.conj),
    "rsqrt": lax.rsqrt,
    "reciprocal": lambda x: 1 / x,
    "frac": lambda x: x - jnp.trunc(x),
    "sign": _sign,
    "sgn": _sgn,
    "relu": lambda x: jnp.maximum(x, 0),
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "erf": lax.erf,
    "erfc": lax.erfc,
    "erfinv": lax.erf_inv,
    "erf_inv": lax.erf_inv,
    "digamma": _digamma,
    "lgamma": lax.lgamma,
    "i0": special.i0,
    "special_i0e": special.i0e,
    "special_i1": special.i1,
    "special_i1e": special.i1e,
    "special_ndtri": special.ndtri,
    "special_entr": special.entr,
    "special_log_ndtr": special.log_ndtr,
    **dict.fromkeys(("erfcx", "special_erfcx"), _erfcx),
}
# They compute in the dtype of their argument.
_QUESTIONS: dict[str, Function] = {
    **{name: getattr(jnp, name) for name in ("abs", "isnan", "isinf", "isfinite", "real", "imag")},
    **{name: getattr(jnp, name) for name in ("signbit", "isposinf", "isneginf", "logical_not")},
    "bitwise_not": jnp.bitwise_not,
    "angle": _angle,
}


def _in_dtype_of_result(compute: Function) -> Function:
    return compute_in_float32(lambda out, x: compute(cast(x, out.dtype)))


def _in_own_dtype(compute: Function) -> Function:
    return lambda _, x: compute(x)


for _name, _compute in _FUNCTIONS.items():
    lowering(f"aten.{_name}.default", f"prims.{_name}.default")(_in_dtype_of_result(_compute))
for _name, _compute in _QUESTIONS.items():
    lowering(f"aten.{_name}.default", f"prims.{_name}.default")(_in_own_dtype(_compute))


@lowering("aten.frexp.Tensor", "prims.frexp.default")
@compute_in_float32
def _frexp(out: OutputInfo, x: Any) -> tuple[Any, Any]:
    return jnp.frexp(x)


@lowering("aten.round.decimals")
@compute_in_float32
def _round(out: OutputInfo, x: Any, *, decimals: int) -> Any:
    return jnp.round(x, decimals)


@lowering("aten.gelu.default")
@compute_in_float32
def _gelu(out: OutputInfo, x: Any, *, approximate: str = "none") -> Any:
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@lowering("aten.special_zeta.default", "aten.special_zeta.other_scalar")
@lowering("aten.special_zeta.self_scalar", "prims.zeta.default")
@compute_in_float32
def _zeta(out: OutputInfo, x: Any, q: Any) -> Any:
    """Return Hurwitz's zeta function, the sum of (q + k)**-x. XLA is wrong where q < 0.

    The terms with q + k < 0 are, up to their sign, those of the zeta function from the distance
    between q and the integer above, without the terms from 1 - q on.
    """
    x, q = jnp.broadcast_arrays(cast(x, out.dtype), cast(q, out.dtype))
    below = q < 0
    near, far, rest = -q - jnp.floor(-q), 1 - q, q - jnp.floor(q)
    negative = special.zeta(x, near) - special.zeta(x, far)
    odd = jnp.remainder(x, 2) == 1
    total = special.zeta(x, jnp.where(below, rest, q))
    total = jnp.where(below, total + jnp.where(odd, -negative, negative), total)
    total = jnp.where(below & (x != jnp.floor(x)), jnp.nan, total)
    total = jnp.where((q <= 0) & (q == jnp.floor(q)), jnp.inf, total)
    return jnp.where(x > 1, total, jnp.where(x == 1, jnp.inf, jnp.nan))


@lowering("aten.polygamma.default")
@compute_in_float32
def _polygamma(out: OutputInfo, n: int, x: Any) -> Any:
    x = cast(x, out.dtype)
    if n == 0:
        return _digamma(x)
    value = (-1) ** (n + 1) * float(math.factorial(n)) * _zeta(out, n + 1, x)
    # Torch returns limits at infinity for n = 1 only, and NaN at -inf.
    return jnp.where(jnp.isinf(x), jnp.where(x > 0, 0, jnp.nan), value) if n == 1 else value


@lowering("aten.tanh_backward.default")
@compute_in_float32
def _tanh_backward(out: OutputInfo, gradient: Any, y: Any) -> Any:
    return gradient * jnp.conj(1 - y * y)


@lowering("aten.sigmoid_backward.default")
@compute_in_float32
def _sigmoid_backward(out: OutputInfo, gradient: Any, y: Any) -> Any:
    return gradient * jnp.conj((1 - y) * y)


@lowering("aten.threshold_backward.default")
def _threshold_backward(out: OutputInfo, gradient: Any, x: Any, threshold: Any) -> Any:
    return jnp.where(x <= cast(threshold, x.dtype), 0, gradient)
