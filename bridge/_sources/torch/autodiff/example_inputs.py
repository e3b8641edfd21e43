"""Tensors that functions are run on before there are any: NOTE [example inputs]."""

import math

import torch

from bridge._core.op import Specs
from bridge._core.spec import ArraySpec


def example_inputs(specs: Specs, seed: int = 0, bound: int = 1) -> list[torch.Tensor]:
    """Make tensors of these specs, with integers below `bound`."""
    generator = torch.Generator().manual_seed(seed)
    return [_example_input(spec, generator, bound).to(spec.device) for spec in specs]


def _example_input(spec: ArraySpec, generator: torch.Generator, bound: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if not spec.differentiable:
        return (torch.arange(math.prod(spec.shape)) % bound).to(dtype).reshape(spec.shape)
    drawn_dtype = dtype if dtype.is_complex else torch.float32
    return torch.rand(spec.shape, dtype=drawn_dtype, generator=generator).to(dtype)
