"""Elementwise operators of several arrays."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.scipy import special

from bridge._lowering.jax.operators.lowerings import (
    OutputInfo,
    cast,
    common_dtype,
    compute_in_float32,
    lowering,
)

Function = Callable[..., Any]


def _divide(x: Any, y: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return x / y
    if rounding_mode == "floor":
        return jnp.floor_divide(x, y)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.trunc(x / y)
    return lax.div(*jnp.broadcast_arrays(x, y))


def _power(x: Any, y: Any) -> Any:
    if jnp.iscomplexobj(x):  # where torch's is not defined for two zeros
        return jnp.where((x == 0) & (y == 0), jnp.nan, jnp.power(x, y))
    if not jnp.issubdtype(x.dtype, jnp.integer):
        return jnp.power(x, y)
    # An integer to a negative power is what its reciprocal rounds to.
    odd = jnp.where(y % 2 == 0, jnp.ones_like(x), x)
    whole = _power_by_squaring(x, jnp.maximum(y, 0))
    return jnp.where(y >= 0, whole, jnp.where(abs(x) == 1, odd, jnp.zeros_like(x)))


def _power_by_squaring(x: Any, y: Any) -> Any:
    """Square as long as there are bits: jnp.power looks at six of them only."""

    def step(state: Any) -> Any:
        power, x, y = state
        return jnp.where(y % 2 == 1, power * x, power), x * x, y // 2

    x, y = jnp.broadcast_arrays(x, y)
    return lax.while_loop(lambda state: (state[2] != 0).any(), step, (jnp.ones_like(x), x, y))[0]


def _gcd(x: Any, y: Any) -> Any:
    """Return the greatest common divisor; ends also for the least integer, which has no `abs`."""

    def step(pair: Any) -> Any:
        x, y = pair
        return jnp.where(x == 0, x, lax.rem(y, jnp.where(x == 0, 1, x))), jnp.where(x == 0, y, x)

    pair = jnp.broadcast_arrays(jnp.abs(x), jnp.abs(y))
    return lax.while_loop(lambda pair: (pair[0] != 0).any(), step, tuple(pair))[1]


def _lcm(x: Any, y: Any) -> Any:
    """Return the least common multiple, as C computes it: small integers multiply in 32 bits."""
    shared = _gcd(x, y)
    int_dtype = jnp.promote_types(x.dtype, jnp.int32)
    x, y, divisor = (z.astype(int_dtype) for z in (x, y, jnp.where(shared == 0, 1, shared)))
    return jnp.where(shared == 0, 0, jnp.abs(lax.div(x, divisor) * y))


def _logaddexp(x: Any, y: Any) -> Any:
    """Return log(exp(x) + exp(y)); like torch, do not wrap the imaginary part."""
    if not jnp.iscomplexobj(x):
        return jnp.logaddexp(x, y)
    x, y = jnp.broadcast_arrays(x, y)
    first = jnp.real(x) >= jnp.real(y)
    large, small = jnp.where(first, x, y), jnp.where(first, y, x)
    both = jnp.isinf(jnp.real(large)) & (jnp.real(large) == jnp.real(small))
    low = jnp.where(jnp.real(large) < 0, small, jnp.log(jnp.exp(small) + jnp.exp(large)))
    return jnp.where(both, low, large + jnp.log1p(jnp.exp(jnp.where(both, 0, small - large))))


def _heaviside(x: Any, y: Any) -> Any:
    """Return the step function, which is 0 at NaN."""
    return jnp.where(x == 0, y, x > 0)


# They are exact, so 16-bit floats need no wider dtype.
_EXACT: dict[str, Function] = {
    **{name: getattr(jnp, name) for name in ("maximum", "minimum", "fmax", "fmin", "copysign")},
    "nextafter": jnp.nextafter,
    "heaviside": _heaviside,
    "gcd": _gcd,
    "lcm": _lcm,
    **{name: getattr(jnp, name) for name in ("bitwise_and", "bitwise_or", "bitwise_xor")},
    "bitwise_left_shift": jnp.left_shift,
    "bitwise_right_shift": jnp.right_shift,
    "shift_left": jnp.left_shift,
    "shift_right_arithmetic": jnp.right_shift,
    "__lshift__": jnp.left_shift,
    "__rshift__": jnp.right_shift,
}
# Torch rounds Python numbers to the dtype of the result before these, but not before the next.
_OF_ROUNDED: dict[str, Function] = {
    **{name: getattr(jnp, name) for name in ("hypot", "logaddexp2", "remainder")},
    "logaddexp": _logaddexp,
    "fmod": jnp.fmod,
    "atan2": jnp.arctan2,
    "pow": _power,
    "xlogy": special.xlogy,
    "special_xlog1py": special.xlog1py,
    "igamma": lax.igamma,
    "igammac": lax.igammac,
}
_OF_NUMBERS: dict[str, Function] = {
    "mul": jnp.multiply,
    "div": _divide,
    "true_divide": _divide,
    "floor_divide": jnp.floor_divide,
}
_FORMS = ("Tensor", "Scalar", "default", "Tensor_Tensor", "Tensor_Scalar", "Scalar_Tensor")
_MORE_FORMS = ("Scalar_mode", "Tensor_mode", "other_scalar", "self_scalar", "Scalar_Self")


def _binary(compute: Function) -> Function:
    def of_result(out: OutputInfo, x: Any, y: Any, **options: Any) -> Any:
        return compute(cast(x, out.dtype), cast(y, out.dtype), **options)

    return of_result


def _binary_of_rounded(compute: Function) -> Function:
    computed = compute_in_float32(_binary(compute))
    return lambda out, x, y: computed(out, cast(x, out.dtype), cast(y, out.dtype))


_PAIRS = {
    **{name: _binary(compute) for name, compute in _EXACT.items()},
    **{name: _binary_of_rounded(compute) for name, compute in _OF_ROUNDED.items()},
    **{name: compute_in_float32(_binary(compute)) for name, compute in _OF_NUMBERS.items()},
}
for _name, _rule in _PAIRS.items():
    names = (f"aten.{_name}.{form}" for form in (*_FORMS, *_MORE_FORMS))
    lowering(*names, f"prims.{_name}.default")(_rule)


@lowering("aten.pow.Tensor_Scalar")
def _power_of_number(out: OutputInfo, x: Any, exponent: Any) -> Any:
    x = cast(x, out.dtype)
    if exponent == _HALF and not jnp.issubdtype(out.dtype, jnp.integer):
        return jnp.sqrt(x)
    if exponent in range(_LARGE):
        return compute_in_float32(lambda _, x: lax.integer_pow(x, int(exponent.real)))(out, x)
    return _PAIRS["pow"](out, x, exponent)


_HALF, _LARGE = 0.5, 32


def _scale(out: OutputInfo, y: Any, alpha: Any) -> Any:
    y = cast(y, out.dtype)
    return y if alpha == 1 else y * cast(alpha, out.dtype)


@lowering("aten.add.Tensor", "aten.add.Scalar", "prims.add.default")
@compute_in_float32
def _add(out: OutputInfo, x: Any, y: Any, alpha: Any = 1) -> Any:
    return cast(x, out.dtype) + _scale(out, y, alpha)


@lowering("aten.sub.Tensor", "aten.sub.Scalar", "prims.sub.default")
@compute_in_float32
def _sub(out: OutputInfo, x: Any, y: Any, alpha: Any = 1) -> Any:
    return cast(x, out.dtype) - _scale(out, y, alpha)


@lowering("aten.rsub.Tensor", "aten.rsub.Scalar")
@compute_in_float32
def _rsub(out: OutputInfo, x: Any, y: Any, alpha: Any = 1) -> Any:
    return cast(y, out.dtype) - _scale(out, x, alpha)


@lowering("aten.addcmul.default")
@compute_in_float32
def _addcmul(out: OutputInfo, x: Any, y: Any, z: Any, *, value: Any = 1) -> Any:
    x, y, z = (cast(t, out.dtype) for t in (x, y, z))
    return x + _scale(out, y * z, value)


@lowering("aten.addcdiv.default")
@compute_in_float32
def _addcdiv(out: OutputInfo, x: Any, y: Any, z: Any, *, value: Any = 1) -> Any:
    x, y, z = (cast(t, out.dtype) for t in (x, y, z))
    return x + _scale(out, y, value) / z


@lowering("aten.lerp.Scalar", "aten.lerp.Tensor")
@compute_in_float32
def _lerp(out: OutputInfo, x: Any, y: Any, weight: Any) -> Any:
    x, y, weight = (cast(t, out.dtype) for t in (x, y, weight))
    return jnp.where(jnp.abs(weight) < _HALF, x + weight * (y - x), y - (y - x) * (1 - weight))


@lowering("aten.clamp.default", "aten.clamp.Tensor")
def _clamp(out: OutputInfo, x: Any, min: Any = None, max: Any = None) -> Any:
    x = cast(x, out.dtype)
    x = x if min is None else jnp.maximum(x, cast(min, out.dtype))
    return x if max is None else jnp.minimum(x, cast(max, out.dtype))


@lowering("aten.clamp_min.default", "aten.clamp_min.Tensor")
def _clamp_min(out: OutputInfo, x: Any, least: Any) -> Any:
    return _clamp(out, x, least)


@lowering("aten.clamp_max.default", "aten.clamp_max.Tensor")
def _clamp_max(out: OutputInfo, x: Any, most: Any) -> Any:
    return _clamp(out, x, None, most)


@lowering("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
@lowering("prims.where.default")
def _where(out: OutputInfo, condition: Any, x: Any, y: Any) -> Any:
    return jnp.where(condition.astype(bool), cast(x, out.dtype), cast(y, out.dtype))


@lowering("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(out: OutputInfo, x: Any, mask: Any, value: Any) -> Any:
    return jnp.where(mask, cast(value, out.dtype), x)


@lowering("aten.complex.default")
def _complex(out: OutputInfo, real: Any, imaginary: Any) -> Any:
    return lax.complex(*jnp.broadcast_arrays(real, imaginary))


@lowering("aten.polar.default")
def _polar(out: OutputInfo, size: Any, angle: Any) -> Any:
    return lax.complex(size * jnp.cos(angle), size * jnp.sin(angle))


_COMPARISONS = {
    "eq": jnp.equal,
    "ne": jnp.not_equal,
    "lt": jnp.less,
    "le": jnp.less_equal,
    "gt": jnp.greater,
    "ge": jnp.greater_equal,
}
_LOGIC = {name: getattr(jnp, name) for name in ("logical_and", "logical_or", "logical_xor")}


def _compare(compute: Function) -> Function:
    def in_common(out: OutputInfo, x: Any, y: Any) -> Any:
        dtype = common_dtype(x, y)
        return compute(cast(x, dtype), cast(y, dtype))

    return in_common


for _name, _compute in (_COMPARISONS | _LOGIC).items():
    names = (f"aten.{_name}.{form}" for form in ("Tensor", "Scalar", "default"))
    lowering(*names, f"prims.{_name}.default")(_compare(_compute))
