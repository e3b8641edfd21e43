"""An observer of what a function does to gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch import transforming
from bridge._arrays.torch.upstream.modes import set_grad_enabled

REQUIRES_GRAD: Any = torch.Tensor.requires_grad.__get__  # pyright: ignore[reportAttributeAccessIssue]


class GradientObserver(TorchFunctionMode):
    """Notes what a function does to gradients, since some transforms ignore it.

    Attributes:
        unrecorded: True if it switches gradients off, by `torch.no_grad`; forward mode ignores it.
        asked: True if it reads `requires_grad`, which has another value in `torch.func.vmap`.
        hooked: True if it registers hooks on gradients, which `torch.func.vmap` ignores.
        wrong_in_graphs: The name of a function that it calls and a graph may compute wrongly, see
            `graphs_have_a_loss_wrong`.
        transforms: True if it uses torch.func, which graphs of batches differentiate wrongly.
        copied: True if it copies a tensor by `torch.tensor`; the copy has no gradient.
        differentiates: True if it takes gradients itself.
        functions: The classes of `autograd.Function`s that it calls.
    """

    unrecorded = False
    asked = False
    hooked = False
    wrong_in_graphs: str | None = None
    transforms = False
    copied = False
    differentiates = False

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[type] = set()

    def apply(self, cls: type, args: Any, apply: Callable[..., Any]) -> Any:
        """Note an `autograd.Function`, and call it."""
        self.functions.add(cls)
        return apply(*args)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Note what `func` does to gradients, and call it."""
        self.transforms = self.transforms or transforming()
        if func is set_grad_enabled and not args[0]:
            self.unrecorded = True
        if func is torch.Tensor.register_hook:
            self.hooked = True
        # test_a_loss_that_graphs_may_have_wrong
        if func is torch.nn.functional.multilabel_margin_loss:
            self.wrong_in_graphs = func.__name__
        if func == REQUIRES_GRAD:
            self.asked = True
        if func in (torch.tensor, torch.Tensor.new_tensor):
            self.copied |= isinstance(args[-1] if args else None, torch.Tensor)
        if func in (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward):
            self.differentiates = True
        return func(*args, **(kwargs or {}))
