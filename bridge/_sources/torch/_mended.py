"""Functions of torch whose gradients are wrong there, computed by others that have them right."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Mended(TorchFunctionMode):
    """Calls others in the place of functions whose gradients are wrong."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, or what has its gradient right."""
        call: Any = _OTHERS.get(func, func)
        return call(*args, **(kwargs or {}))


def _as_strided_scatter(input: Any, src: Any, *layout: Any, **named: Any) -> Any:
    """The same in place: in torch 2.13, what is written over keeps its gradient otherwise."""
    written = input.clone(memory_format=torch.preserve_format)
    written.as_strided(*layout, **named).copy_(src)
    return written


_OTHERS: dict[Any, Callable[..., Any]] = {  # test_writing_by_strides_has_its_gradient_wrong
    torch.as_strided_scatter: _as_strided_scatter,
    torch.Tensor.as_strided_scatter: _as_strided_scatter,
}
