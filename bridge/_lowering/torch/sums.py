"""Reductions in torch, and what else computes along an axis."""

from collections.abc import Sequence

import torch

from bridge._lowering.torch.carriers import dtype_of

_KINDS = {"mul": "prod", "min": "amin", "max": "amax"}


def reduce(kind: str, x: torch.Tensor, axes: Sequence[int], dtype: str) -> torch.Tensor:
    """Return the `sum`, `prod`, `max`, `min`, `and` or `or` over axes."""
    axes = tuple(axes)
    if kind == "sum":
        return torch.sum(x, axes, dtype=dtype_of(dtype))
    if kind == "prod":
        for axis in sorted(axes, reverse=True):
            x = torch.prod(x, axis, dtype=dtype_of(dtype))
        return x
    if x.dtype is torch.bool:
        return torch.any(x, axes) if kind in ("max", "or") else torch.all(x, axes)
    return torch.amax(x, axes) if kind == "max" else torch.amin(x, axes)


def find_argument(kind: str, x: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the index of the first `max` or `min`, or of the first NaN."""
    keys = x.to(torch.uint8) if x.dtype is torch.bool else x
    return torch.argmax(keys, axis) if kind == "max" else torch.argmin(keys, axis)


def accumulate(kind: str, x: torch.Tensor, axis: int, dtype: str) -> torch.Tensor:
    """Return the `sum`, `prod`, `max`, `min` or `logsumexp` up to each entry."""
    if kind == "sum":
        return torch.cumsum(x, axis, dtype=dtype_of(dtype))
    if kind == "prod":
        return torch.cumprod(x, axis, dtype=dtype_of(dtype))
    if kind == "logsumexp":
        return torch.logcumsumexp(x, axis)
    return (torch.cummax if kind == "max" else torch.cummin)(x, axis)[0]


def scatter(
    kind: str, x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor
) -> torch.Tensor:
    """Return a vector with updates at indices."""
    if kind == "set":
        return torch.index_put(x, (indices,), updates)
    if kind == "add":
        return torch.index_add(x, 0, indices, updates)
    return torch.scatter_reduce(x, 0, indices, updates, _KINDS[kind])
