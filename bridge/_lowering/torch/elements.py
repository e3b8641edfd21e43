"""Operators of torch that are words of the core vocabulary, element by element."""

from typing import Any

import torch


def _cube_root(x: torch.Tensor) -> torch.Tensor:
    wide = x.abs().to(torch.float64)
    root = torch.pow(wide, 1 / 3)
    # One step of Newton's method, since 1/3 is rounded.
    better = root - (root * root * root - wide) / (3 * root * root)
    is_plain = (wide > 0) & torch.isfinite(wide)
    return torch.copysign(torch.where(is_plain, better, root).to(x.dtype), x)


def _polygamma(n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    sign = torch.where(torch.fmod(n, 2) == 0, -1.0, 1.0).to(x.dtype)
    order = n + 1
    value = sign * torch.exp(torch.lgamma(order)) * torch.special.zeta(order, x)
    return torch.where(n == 0, torch.digamma(x), value)


def _imag(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x)[..., 1]


def _real(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x)[..., 0]


def _exp2(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(x * 0.6931471805599453) if x.is_complex() else torch.exp2(x)


NATIVE: dict[str, Any] = {
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sgn,
    "exp": torch.exp,
    "exp2": _exp2,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "cbrt": _cube_root,
    "square": lambda x: x * x,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_to_even": torch.round,
    "logistic": torch.sigmoid,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "erf_inv": torch.erfinv,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "bessel_i0e": torch.special.i0e,
    "bessel_i1e": torch.special.i1e,
    "is_finite": torch.isfinite,
    "real": _real,
    "imag": _imag,
    "conj": torch.conj_physical,
    "not": torch.bitwise_not,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "rem": torch.fmod,
    "pow": torch.pow,
    "max": torch.maximum,
    "min": torch.minimum,
    "atan2": torch.atan2,
    "complex": torch.complex,
    "nextafter": torch.nextafter,
    "igamma": torch.special.gammainc,
    "igammac": torch.special.gammaincc,
    "zeta": torch.special.zeta,
    "polygamma": _polygamma,
    "eq": torch.eq,
    "ne": torch.ne,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "and": torch.bitwise_and,
    "or": torch.bitwise_or,
    "xor": torch.bitwise_xor,
    "shift_left": torch.bitwise_left_shift,
    "shift_right": torch.bitwise_right_shift,
}
