"""Functions of torch that look at values, by others that compute the same."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch import unwrap

_Function = Callable[..., Any]


class RewrittenFunctions(TorchFunctionMode):
    """Calls what computes the same where a function looks at values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """What `func` computes."""
        rewrite = next((rewrite for other, rewrite in _REWRITTEN if other is func), None)
        return (rewrite or func)(*args, **(kwargs or {}))


def _covariance(
    x: torch.Tensor,
    *,
    correction: int = 1,
    fweights: torch.Tensor | None = None,
    aweights: torch.Tensor | None = None,
) -> torch.Tensor:
    """torch.cov, without a look at whether weights and what it divides by are negative."""
    given = [weights for weights in (fweights, aweights) if weights is not None]
    if (
        x.dtype == torch.bool
        or x.ndim > 2
        or not x.numel()
        or any(weights.ndim != 1 for weights in given)
    ):
        return torch.cov(x, correction=correction, fweights=fweights, aweights=aweights)
    x = x.reshape(1, -1) if x.ndim < 2 else x
    weights = math.prod(given, start=x.new_ones(x.shape[1]).real)
    total = weights.sum()
    free = correction if aweights is None else correction * (weights * aweights).sum() / total
    away = x - ((x * weights).sum(1) / total)[:, None]
    products = away @ (away * weights).mH
    return (products / (total - free).clamp(min=0)).squeeze()


def _correlation(x: torch.Tensor) -> torch.Tensor:
    """torch.corrcoef, by that covariance."""
    if x.ndim > 2 or not x.numel():
        return torch.corrcoef(x)
    covariance = _covariance(x)
    if not covariance.ndim:
        return covariance / covariance
    deviation = covariance.diagonal().real.sqrt()
    ratio = covariance / deviation[:, None] / deviation
    if not ratio.is_complex():
        return ratio.clip(-1, 1)
    return torch.complex(ratio.real.clip(-1, 1), ratio.imag.clip(-1, 1))


def _index_fill(x: torch.Tensor, dim: Any, index: torch.Tensor, value: Any) -> torch.Tensor:
    """`x.index_fill`, whose gradient by a tensor looks at which indices are the same."""
    if not isinstance(value, torch.Tensor) or value.ndim or isinstance(dim, str):
        fill: Any = torch.index_fill  # by the names of axes, too, which its stubs lack
        return fill(x, dim, index, value)
    if not x.ndim:
        return value.to(x.dtype) if index.numel() else x.clone()
    written = torch.zeros(x.shape[dim], dtype=torch.bool, device=x.device)
    written = written.index_fill(0, index, value=True)
    shape = [-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    return torch.where(written.view(shape), value.to(x.dtype), x)


def _is_valid(valid: torch.Tensor) -> bool:
    """Leave to each run of a graph whether what a distribution checks is `valid`, as torch 2.15."""
    _assert_valid(valid, "a parameter or value of a distribution is not within its constraint")
    return True


def _assert_valid(valid: torch.Tensor, message: str = "") -> None:
    """Assert it for all examples of a batch at once: torch.func has no rule to batch this."""
    _aten._assert_async.msg(unwrap(valid).all(), message)


_aten: Any = torch.ops.aten
# What distributions check by; without the name, functions that use them run anew.
_IS_ALL_TRUE: Any = getattr(torch, "_is_all_true", None)

_REWRITTEN: list[tuple[Any, _Function]] = [
    (_IS_ALL_TRUE, _is_valid),
    (getattr(torch, "_assert_async", None), _assert_valid),
    (_aten._assert_async.msg, _assert_valid),
    (torch.cov, _covariance),
    (torch.Tensor.cov, _covariance),
    (torch.corrcoef, _correlation),
    (torch.Tensor.corrcoef, _correlation),
    (torch.index_fill, _index_fill),
    (torch.Tensor.index_fill, _index_fill),
]
