"""Fourier transforms."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from bridge._lowering.jax.operators.lowerings import OutputInfo, cast, lowering

Sizes = Sequence[int]


def _divisor(sizes: Sizes, normalization: int) -> float:
    """Return the divisor of a Fourier transform: 1, the root of its size, or its size."""
    total = math.prod(sizes)
    return (1.0, total**0.5, float(total))[normalization]


@lowering("aten._fft_c2c.default")
def _fft(out: OutputInfo, x: Any, dims: Sizes, normalization: int, forward: bool) -> Any:
    return _transform(x, dims, forward=forward) / _divisor(
        [x.shape[d] for d in dims], normalization
    )


def _transform(x: Any, dims: Sizes, *, forward: bool) -> Any:
    """Transform along any number of axes, without normalization."""
    for dim in dims:
        x = jnp.fft.fft(x, axis=dim) if forward else jnp.fft.ifft(x, axis=dim, norm="forward")
    return x


@lowering("aten._fft_r2c.default")
def _rfft(out: OutputInfo, x: Any, dims: Sizes, normalization: int, onesided: bool) -> Any:
    divisor = _divisor([x.shape[d] for d in dims], normalization)
    if not onesided:
        return _transform(cast(x, out.dtype), dims, forward=True) / divisor
    *others, last = dims
    return _transform(jnp.fft.rfft(x, axis=last), others, forward=True) / divisor


@lowering("aten._fft_c2r.default")
def _irfft(out: OutputInfo, x: Any, dims: Sizes, normalization: int, size: int) -> Any:
    *others, last = dims
    x = _transform(x, others, forward=False)
    y = jnp.fft.irfft(x, size, axis=last, norm="forward")
    return y / _divisor([y.shape[d] for d in dims], normalization)


@lowering("aten.fft_fftfreq.default")
def _frequencies(out: OutputInfo, n: int, d: float = 1.0, **_: Any) -> Any:
    return jnp.fft.fftfreq(n, d, dtype=out.dtype)


@lowering("aten.fft_rfftfreq.default")
def _half_of_frequencies(out: OutputInfo, n: int, d: float = 1.0, **_: Any) -> Any:
    return jnp.fft.rfftfreq(n, d, dtype=out.dtype)
