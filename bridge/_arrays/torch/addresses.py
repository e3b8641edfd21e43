"""Addresses of tensors, and reasons for which they are copied."""

from typing import Any

import numpy as np
import torch

from bridge._core.spec import ArraySpec


def address(x: torch.Tensor) -> int | None:
    """Return where the values of `x` begin; None if it has none, as in a trace."""
    try:  # a FakeTensor claims to be on the host, at address 0
        if x.untyped_storage().device.type == "meta":
            return None
        return x.data_ptr()
    except RuntimeError:
        return None


def example(spec: ArraySpec) -> torch.Tensor:
    """Make zeros of this spec."""
    return torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype), device=spec.device)


def lending_copy_reason(x: torch.Tensor) -> str:
    """Say why a buffer of `x` is a copy, `""` if it is not."""
    if x.is_conj() or x.is_neg():
        return "it is conjugated or negated lazily, which is written to memory"
    if x.device.type != "cpu":
        return f"it is on {x.device}" if x.is_contiguous() else "it is not contiguous"
    return ""


def borrowing_copy_reason(buffer: Any) -> str:
    """Say why torch copies a buffer, `""` if it does not."""
    if isinstance(buffer, np.ndarray) and not buffer.flags.writeable:
        return "it is read-only, and torch could write to it"
    return ""
