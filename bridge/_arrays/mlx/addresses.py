"""Addresses of MLX arrays, and reasons for which they are copied."""

from typing import Any

import mlx.core as mx

from bridge._arrays.mlx.memory import host_view, zeros
from bridge._arrays.mlx.transforms import TracerError, evaluate
from bridge._core.spec import ArraySpec

ADOPTING_COPY_REASON = "MLX has all arrays in memory of its own"


def address(x: mx.array) -> int | None:
    """Return where the values of `x` begin, which are computed for that; None in a trace."""
    try:
        evaluate([x])
    except TracerError:
        return None
    return host_view(x).ctypes.data


def example(spec: ArraySpec) -> mx.array:
    """Make zeros of this spec."""
    return zeros(spec)


def lending_copy_reason(x: mx.array) -> str:
    """Say why a buffer of `x` is a copy, `""` if it is not."""
    evaluate([x])
    return "" if host_view(x).flags.c_contiguous else "it is not contiguous"


def borrowing_copy_reason(buffer: Any) -> str:
    """Say why MLX copies a buffer: it cannot share memory."""
    del buffer
    return ADOPTING_COPY_REASON
