"""The check that tensors of a module share no memory: others in their places would not."""

import itertools
from collections.abc import Sequence

import torch

from bridge._core.errors import ArgumentError


def check_no_shared_memory(module: str, tensors: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Raise if two of these tensors of a module share memory."""
    ranges = sorted((*_byte_range(x), name) for name, x in tensors if _has_memory(x))
    for (_, end, name), (start, _, other) in itertools.pairwise(ranges):
        if start < end:
            raise ArgumentError(
                f"{name} and {other} of {module} share memory, and a change of one would no longer "
                "change the other. Register a copy, made by `.clone()`; or if they are one, the "
                "same tensor twice."
            )


def _has_memory(x: torch.Tensor) -> bool:
    is_plain = type(x) in {torch.Tensor, torch.nn.Parameter} and x.layout == torch.strided
    return is_plain and x.device.type in {"cpu", "cuda"} and x.numel() > 0


def _byte_range(x: torch.Tensor) -> tuple[int, int]:
    """Return the addresses of the first byte and of the one after the last."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    start = x.data_ptr()
    return start, start + (last + 1) * x.element_size()
