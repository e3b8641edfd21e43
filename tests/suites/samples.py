"""Functions of tensors with arguments for them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensors = Sequence[torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Sample:
    """A function of tensors alone, which returns a list of tensors, with arguments for it.

    Attributes:
        function: It never writes to its arguments.
        tensors: The arguments.
        free: Positions of those by which there are derivatives.
    """

    function: Callable[..., list[torch.Tensor]]
    tensors: tuple[torch.Tensor, ...]
    free: tuple[int, ...]

    def merged(self, moving: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        """`others` with the free arguments replaced by `moving`."""
        arguments = list(others)
        for position, value in zip(self.free, moving, strict=True):
            arguments[position] = value
        return arguments

    def with_tensors(self, tensors: Tensors) -> "Sample":
        """The same function with other arguments."""
        return dataclasses.replace(self, tensors=tuple(tensors))


def smooth(x: torch.Tensor) -> bool:
    """Whether there are derivatives by it."""
    return x.is_floating_point() or x.is_complex()
