"""Functions of torch whose gradients are wrong there, computed by others that have them right."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from bridge._sources.torch.internals import without_modes


class CorrectedFunctions(TorchFunctionMode):
    """Calls others in the place of functions whose gradients are wrong."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, or what has its gradient right."""
        call: Any = _CORRECTED.get(func, func)
        return call(*args, **(kwargs or {}))


def _as_strided_scatter(input: Any, src: Any, *layout: Any, **named: Any) -> Any:
    """The same in place: in torch 2.13, what is written over keeps its gradient otherwise."""
    written = input.clone(memory_format=torch.preserve_format)
    written.as_strided(*layout, **named).copy_(src)
    return written


def _embedding_bag(*args: Any, **kwargs: Any) -> Any:
    """Bags of rows from F.embedding, whose gradients are divided by the right counts."""
    call = _BAG.bind(*args, **kwargs)
    call.apply_defaults()
    of = call.arguments
    index, table, padding = of["input"], of["weight"], of["padding_idx"]
    if not of["scale_grad_by_freq"] or index.is_nested or not _bags_have_wrong_counts():
        return F.embedding_bag(*args, **kwargs)
    norms = {"max_norm": of["max_norm"], "norm_type": of["norm_type"]}
    rows = F.embedding(index, table, padding, **norms, scale_grad_by_freq=True).flatten(0, -2)
    counts = rows.new_ones(len(rows), 1)
    if padding is not None:
        left_out = index.reshape(-1, 1) == padding % len(table)
        rows, counts = rows.masked_fill(left_out, 0), counts.masked_fill(left_out, 0)
    of["input"] = torch.arange(len(rows), dtype=index.dtype, device=rows.device).view(index.shape)
    of.update(max_norm=None, scale_grad_by_freq=False, padding_idx=None)
    if of["mode"] != "mean":
        return _bags(of, weight=rows)
    total, sizes = (_bags(of, weight=x, mode="sum") for x in (rows, counts))
    return total / sizes.clamp(min=1)


def _bags(call: dict[str, Any], **others: Any) -> torch.Tensor:
    return F.embedding_bag(**{**call, **others})


_BAG = inspect.signature(F.embedding_bag)


@functools.cache
def _bags_have_wrong_counts() -> bool:
    """Whether the gradient of a row in bags is divided by how often others occur, as in 2.13."""
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
