"""Addresses of JAX arrays, and reasons for which they are copied."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from bridge._arrays.jax.upstream.modes import allow_transfers
from bridge._core.spec import ArraySpec

_ALIGNMENT = 64  # bytes, by which XLA requires that memory begins

ADOPTING_COPY_REASON = "XLA has allocated the memory of results"


def address(x: Any) -> int | None:
    """Return where the values of `x` begin; for a buffer, where `jax.jit` has them."""
    if isinstance(x, Tracer):
        return None
    with jax.enable_x64(new_val=True), allow_transfers():
        array = jax.device_put(x)  # an array of NumPy becomes one of JAX as in a jitted call
    if len(array.sharding.device_set) > 1:
        return None
    return array.addressable_data(0).unsafe_buffer_pointer()


def example(spec: ArraySpec) -> jax.Array:
    """Make zeros of this spec."""
    with jax.enable_x64(new_val=True):
        return jnp.zeros(spec.shape, jnp.dtype(spec.dtype))


def borrowing_copy_reason(buffer: Any) -> str:
    """Say why JAX copies an array of NumPy that it computes with, `""` if it does not."""
    if not isinstance(buffer, np.ndarray):
        return ""
    if not buffer.flags.c_contiguous:
        return "it is not contiguous, and XLA computes on dense arrays"
    offset = buffer.ctypes.data % _ALIGNMENT
    if offset:
        return f"it begins {offset} bytes after a multiple of {_ALIGNMENT}, which XLA requires"
    return ""
