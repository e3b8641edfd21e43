"""A small JAX function called from torch, forward and backward."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch.utils.dlpack import from_dlpack

from bridge import jax2torch


def _function(x: jax.Array) -> jax.Array:
    return jnp.sin(x) * x


_forward = jax.jit(_function)
_backward = jax.jit(lambda x, cotangent: jax.vjp(_function, x)[1](cotangent)[0])


class Floor(torch.autograd.Function):
    """The least a bridge can do: two jitted calls on NumPy views."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return from_dlpack(_forward(x.detach().numpy()).__dlpack__())

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return from_dlpack(_backward(x.detach().numpy(), cotangent.numpy()).__dlpack__())


def forward_backward(size: int) -> dict[str, Callable[[], object]]:
    """Forward and backward of `size` float32 numbers."""
    x = torch.randn(size, requires_grad=True)
    cotangent = torch.randn(size)
    save, recompute = jax2torch(_function), jax2torch(_function, residuals="recompute")
    return {
        "floor": lambda: Floor.apply(x).backward(cotangent),
        "torch native": lambda: (torch.sin(x) * x).backward(cotangent),
        'jax2torch, residuals="save"': lambda: save(x).backward(cotangent),
        'jax2torch, residuals="recompute"': lambda: recompute(x).backward(cotangent),
    }


def forward(size: int) -> dict[str, Callable[[], object]]:
    """Forward of `size` float32 numbers without gradients."""
    x = torch.randn(size)
    bridged = jax2torch(_function)
    return {"floor": lambda: _forward(x.numpy()), "jax2torch": lambda: bridged(x)}
