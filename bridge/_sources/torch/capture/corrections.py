"""Replacements for functions of torch that have wrong gradients."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.modes import without_modes


class CorrectedFunctions(TorchFunctionMode):
    """Calls replacements for functions that have wrong gradients."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` or its replacement."""
        call: Any = _CORRECTED.get(func, func)
        return call(*args, **(kwargs or {}))


def _as_strided_scatter(input: Any, src: Any, *layout: Any, **kwargs: Any) -> Any:
    """Compute it by a copy in place: in torch 2.13, overwritten elements keep their gradients."""
    written = input.clone(memory_format=torch.preserve_format)
    written.as_strided(*layout, **kwargs).copy_(src)
    return written


def _embedding_bag(*args: Any, **kwargs: Any) -> Any:
    """Look rows up by F.embedding, which divides gradients by the right counts, and bag them."""
    call = _BAG_SIGNATURE.bind(*args, **kwargs)
    call.apply_defaults()
    options = call.arguments
    index, table, padding = options["input"], options["weight"], options["padding_idx"]
    if not options["scale_grad_by_freq"] or index.is_nested or not _scale_grad_by_freq_is_wrong():
        return F.embedding_bag(*args, **kwargs)
    norms = {"max_norm": options["max_norm"], "norm_type": options["norm_type"]}
    rows = F.embedding(index, table, padding, **norms, scale_grad_by_freq=True).flatten(0, -2)
    counts = rows.new_ones(len(rows), 1)
    if padding is not None:
        is_padding = index.reshape(-1, 1) == padding % len(table)
        rows, counts = rows.masked_fill(is_padding, 0), counts.masked_fill(is_padding, 0)
    positions = torch.arange(len(rows), dtype=index.dtype, device=rows.device)
    options["input"] = positions.view(index.shape)
    options.update(max_norm=None, scale_grad_by_freq=False, padding_idx=None)
    if options["mode"] != "mean":
        return _call_embedding_bag(options, weight=rows)
    total, sizes = (_call_embedding_bag(options, weight=x, mode="sum") for x in (rows, counts))
    return total / sizes.clamp(min=1)


def _call_embedding_bag(options: dict[str, Any], **others: Any) -> torch.Tensor:
    return F.embedding_bag(**{**options, **others})


_BAG_SIGNATURE = inspect.signature(F.embedding_bag)


@functools.cache
def _scale_grad_by_freq_is_wrong() -> bool:
    """Return True if the gradient of a row is divided by the count of another, as in 2.13."""
    with without_modes(), torch.enable_grad():
        index = torch.tensor([1, 1, 2], device="cpu")
        table = torch.ones(3, 1, device="cpu", requires_grad=True)
        bag = F.embedding_bag(index, table, index[:1] * 0, mode="sum", scale_grad_by_freq=True)
        (gradient,) = torch.autograd.grad(bag.sum(), table)
        return gradient[:, 0].tolist() != [0, 1, 1]


_CORRECTED: dict[Any, Callable[..., Any]] = {  # test_writing_by_strides_has_its_gradient_wrong
    torch.as_strided_scatter: _as_strided_scatter,
    torch.Tensor.as_strided_scatter: _as_strided_scatter,
    F.embedding_bag: _embedding_bag,
}
