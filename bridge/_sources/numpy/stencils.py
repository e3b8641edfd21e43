"""Coefficients and shifts whose weighted sum of values is a derivative.

NOTE [shifts of least noise]
Shifts tell frequencies apart if the matrix of `sin(w_r s_i)` is regular, and there are many such.
The variance of the derivative is proportional to the squares of the coefficients, so that shifts in
the proportions of 1, 3, 5, ... are tried at many scales, and those of the least sum of absolute
coefficients are taken. No shifts have a smaller sum than the largest frequency.
"""

import fractions
import functools
import math

import numpy as np

from bridge._core.errors import OptionError

Stencil = tuple[np.ndarray, np.ndarray]  # coefficients and shifts
Frequencies = tuple[float, ...]

_SCALES = 400
_LEAST_SINGULAR_VALUE = 1e-8  # of a matrix whose elements are at most 2


@functools.lru_cache(maxsize=1024)
def shift_stencil(frequencies: Frequencies, shifts: tuple[float, ...] | None = None) -> Stencil:
    """Return the stencil of a sum of frequencies, by these shifts or else those of least noise."""
    w = np.sort(np.asarray(frequencies, float))
    if shifts is not None:
        candidates = [np.asarray(shifts, float)]
    elif np.allclose(w, w[0] * np.arange(1, len(w) + 1), rtol=1e-12, atol=0):
        return _equidistant_stencil(w[0], len(w))
    else:
        candidates = [_odd_multiples(len(w), f) for f in np.linspace(w[0] / 2, w[-1] * 2, _SCALES)]
    solutions = [(_solve(w, s), s) for s in candidates]
    coefficients, s = min(solutions, key=lambda pair: np.abs(pair[0]).sum())
    if not np.isfinite(coefficients).all():
        raise OptionError(f"shifts={shifts} do not tell the frequencies {frequencies} apart.")
    return _antisymmetric(coefficients, s)


def _equidistant_stencil(w: float, count: int) -> Stencil:
    s = _odd_multiples(count, w)
    signs = (-1.0) ** np.arange(count)
    return _antisymmetric(signs * w / (4 * count * np.sin(w * s / 2) ** 2), s)


def _odd_multiples(count: int, w: float) -> np.ndarray:
    return (2 * np.arange(1, count + 1) - 1) * np.pi / (2 * count * w)


def _solve(w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Return the coefficients for these shifts; infinite ones if they tell too little."""
    sines = 2 * np.sin(np.outer(w, s))
    if np.linalg.svd(sines, compute_uv=False).min() < _LEAST_SINGULAR_VALUE:
        return np.full(len(w), np.inf)
    return np.linalg.solve(sines, w)


def _antisymmetric(coefficients: np.ndarray, s: np.ndarray) -> Stencil:
    return np.concatenate([coefficients, -coefficients]), np.concatenate([s, -s])


@functools.lru_cache(maxsize=1024)
def period(frequencies: Frequencies) -> float | None:
    """Return the period of a sum of frequencies; `None` if they are no multiples of one."""
    ratios = [fractions.Fraction(f / frequencies[0]).limit_denominator(1000) for f in frequencies]
    pairs = zip(ratios, frequencies, strict=True)
    if any(abs(float(ratio) * frequencies[0] - f) > 1e-12 * f for ratio, f in pairs):
        return None
    # All frequencies are multiples of the first one by this denominator, and of nothing larger.
    denominator = math.lcm(*(ratio.denominator for ratio in ratios))
    return 2 * math.pi * denominator / frequencies[0]


@functools.lru_cache
def difference_stencil(accuracy: int, strategy: str) -> Stencil:
    """Return the stencil of a difference with step 1, whose error is of order `accuracy`."""
    nodes = np.arange(accuracy + 1.0)
    if strategy == "center":
        nodes = nodes - accuracy // 2
    elif strategy == "backward":
        nodes = -nodes
    moments = np.vander(nodes, increasing=True).T
    coefficients = np.linalg.solve(moments, np.eye(accuracy + 1)[1])
    used = nodes != 0 if strategy == "center" else np.full(accuracy + 1, fill_value=True)
    return coefficients[used], nodes[used]
