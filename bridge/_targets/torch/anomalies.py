"""Errors of torch's anomaly mode that name the bridged call."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from bridge._core.invalid_values import describe_invalid
from bridge._core.op import Op


def check_gradients(
    op: Op, ctx: Any, cotangents: Sequence[Any], gradients: Sequence[Any], argnums: Sequence[int]
) -> None:
    """Raise the error of anomaly mode for NaN in a gradient, with a note where it begins."""
    invalid = [i for i, x in zip(argnums, gradients, strict=True) if _has_nan(x)]
    if not invalid or not torch.is_anomaly_check_nan_enabled():
        return
    before = [f"the gradient of result {i}" for i, x in enumerate(cotangents) if _has_nan(x)]
    with contextlib.suppress(RuntimeError):  # a checkpoint lets saved tensors be read once
        before += ["a tensor that the call has saved"] * any(map(_has_nan, ctx.saved_tensors))
    error = RuntimeError(
        f"Function '{op.name}Backward' returned nan values in the gradient of argument "
        f"{invalid[0]}."
    )
    error.add_note(
        describe_invalid(f"the derivative of {op.name}", (op.framework, "torch"), before)
    )
    raise error


def _has_nan(x: Any) -> bool:
    is_inexact = isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())
    return is_inexact and bool(torch.isnan(x.detach()).any())
