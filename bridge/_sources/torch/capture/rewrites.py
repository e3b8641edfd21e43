"""Replacements for functions of torch that look at values, so that they can be captured."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch import unwrap
from bridge._arrays.torch.upstream.graphs import (
    assert_async,
    is_all_true,
    is_all_true_method,
)

_Function = Callable[..., Any]


class RewrittenFunctions(TorchFunctionMode):
    """Calls replacements for functions that look at values."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func` or its replacement."""
        rewrite = next((rewrite for other, rewrite in _REWRITTEN if other is func), None)
        return (rewrite or func)(*args, **(kwargs or {}))


def _covariance(
    x: torch.Tensor,
    *,
    correction: int = 1,
    fweights: torch.Tensor | None = None,
    aweights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute `torch.cov` without checks that weights and the divisor are not negative."""
    factors = [factor for factor in (fweights, aweights) if factor is not None]
    if (
        x.dtype == torch.bool
        or x.ndim > 2
        or not x.numel()
        or any(factor.ndim != 1 for factor in factors)
    ):
        return torch.cov(x, correction=correction, fweights=fweights, aweights=aweights)
    x = x.reshape(1, -1) if x.ndim < 2 else x
    weights = math.prod(factors, start=x.new_ones(x.shape[1]).real)
    total = weights.sum()
    lost = correction if aweights is None else correction * (weights * aweights).sum() / total
    centered = x - ((x * weights).sum(1) / total)[:, None]
    products = centered @ (centered * weights).mH
    return (products / (total - lost).clamp(min=0)).squeeze()


def _correlation(x: torch.Tensor) -> torch.Tensor:
    """Compute `torch.corrcoef` from `_covariance`."""
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
    """Compute `x.index_fill`; torch's gradient by `value` looks at which indices are equal."""
    if not isinstance(value, torch.Tensor) or value.ndim or isinstance(dim, str):
        fill: Any = torch.index_fill  # its stubs lack names of axes
        return fill(x, dim, index, value)
    if not x.ndim:
        return value.to(x.dtype) if index.numel() else x.clone()
    written = torch.zeros(x.shape[dim], dtype=torch.bool, device=x.device)
    written = written.index_fill(0, index, value=True)
    shape = [-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    return torch.where(written.view(shape), value.to(x.dtype), x)


def _assume_valid(valid: torch.Tensor) -> bool:
    """Let each run of the graph check whether what a distribution checks is `valid`."""
    _assert_valid(valid, "a parameter or value of a distribution is not within its constraint")
    return True


def _assume_checked(valid: torch.Tensor) -> torch.Tensor:
    """Let each run of the graph check what is checked by `torch._check_tensor_all`."""
    _assert_valid(valid, "a value that the function checks is not as it expects")
    return torch.tensor(data=True)


def _assert_valid(valid: torch.Tensor, message: str = "") -> None:
    """Assert it for all examples of a batch at once: torch.func has no batching rule for this."""
    _aten._assert_async.msg(unwrap(valid).all(), message)


_aten: Any = torch.ops.aten

_REWRITTEN: list[tuple[Any, _Function]] = [
    (is_all_true, _assume_valid),
    (is_all_true_method, _assume_checked),
    (assert_async, _assert_valid),
    (_aten._assert_async.msg, _assert_valid),
    (torch.cov, _covariance),
    (torch.Tensor.cov, _covariance),
    (torch.corrcoef, _correlation),
    (torch.Tensor.corrcoef, _correlation),
    (torch.index_fill, _index_fill),
    (torch.Tensor.index_fill, _index_fill),
]
