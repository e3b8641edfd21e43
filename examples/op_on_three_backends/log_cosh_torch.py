"""The log-cosh loss in PyTorch."""

import math
from typing import Any

import torch


class LogCosh(torch.autograd.Function):
    """`log(cosh(x))` with `tanh(x)` as gradient, also where autodiff sees the corner of `abs`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        """Return the value; `cosh` itself would overflow."""
        return x.abs() + torch.log1p(torch.exp(-2 * x.abs())) - math.log(2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        """Keep the argument."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> torch.Tensor:
        """Return the gradient."""
        return cotangents[0] * torch.tanh(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        """Return the tangent of the value."""
        return tangents[0] * torch.tanh(ctx.saved_tensors[0])


def log_cosh(x: torch.Tensor) -> torch.Tensor:
    """Return `log(cosh(x))` of each element."""
    return LogCosh.apply(x)  # pyright: ignore[reportReturnType], which torch leaves open
