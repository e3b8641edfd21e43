"""Tensors that carry a derivative, which would be lost where only values cross."""

import torch

from bridge._arrays.torch.upstream.call_sites import is_dual
from bridge._core.errors import ArgumentError


def check_no_derivative(x: torch.Tensor) -> None:
    """Raise if `x` requires grad, as `.numpy()` does, or has a tangent."""
    if x.requires_grad:
        raise ArgumentError(
            "a tensor that requires grad would lose its gradient, since values cross "
            "without it. Pass `.detach()`, or wrap the function that takes it."
        )
    if is_dual(x):
        raise ArgumentError("a dual tensor would lose its tangent, since only values cross.")
