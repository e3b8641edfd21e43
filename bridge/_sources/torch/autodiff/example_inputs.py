"""Tensors that functions are run on before there are any: NOTE [example inputs]."""

import math

import torch

from bridge._core.op import Specs
from bridge._core.spec import ArraySpec

# Derivatives that draw other random numbers than their function differ for one of these.
SEEDS = (1, 8, 15, 22)


def example_inputs(specs: Specs, seed: int = 0, bound: int = 1) -> list[torch.Tensor]:
    """Make tensors of these specs, with integers below `bound`."""
    generator = torch.Generator().manual_seed(seed)
    return [_example_input(spec, generator, bound).to(spec.device) for spec in specs]


def with_seed_input(xs: list[torch.Tensor], seed_argnum: int, seed: int) -> list[torch.Tensor]:
    """Return example inputs with this seed of random numbers at `seed_argnum`."""
    seeds = torch.full_like(xs[seed_argnum], seed)
    return [*xs[:seed_argnum], seeds, *xs[seed_argnum + 1 :]]


def _example_input(spec: ArraySpec, generator: torch.Generator, bound: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if not spec.differentiable:
        return (torch.arange(math.prod(spec.shape)) % bound).to(dtype).reshape(spec.shape)
    drawn_dtype = dtype if dtype.is_complex else torch.float32
    return torch.rand(spec.shape, dtype=drawn_dtype, generator=generator).to(dtype)
