"""Execution of Ops on memory that a compiler allocated, for operands and results."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from bridge._arrays.numpy import as_dlpack_dtype
from bridge._arrays.torch.dtypes import PLAIN_NUMPY, dtype_name
from bridge._arrays.torch.upstream.isolation import suspend_transforms
from bridge._core.errors import ArgumentError
from bridge._core.op import Op
from bridge._core.spec import NARROW_INTEGERS, check_fits_32_bits, check_output_count


def tensor_from_buffer(x: Any) -> torch.Tensor:
    """Make a tensor over the memory of a NumPy array, or of an object with `__dlpack__`."""
    if not isinstance(x, np.ndarray):
        return torch.from_dlpack(x)
    if x.dtype in PLAIN_NUMPY:
        return torch.from_numpy(x)
    buffer, low = as_dlpack_dtype(x)
    return torch.from_numpy(buffer).view(getattr(torch, low or ""))


def execute_into(op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
    """Execute `op` on NumPy arrays or objects with `__dlpack__`: `SourceArrays.execute_into`."""
    with suspend_transforms():
        _execute_into(op, operands, results)


def _execute_into(op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
    xs, targets = [*map(tensor_from_buffer, operands)], [*map(tensor_from_buffer, results)]
    call_into = op.traits.call_into
    outputs = call_into(targets, xs) if call_into and _no_overlap(targets, xs) else op.call(*xs)
    check_output_count(outputs, results, op.name)
    for i, (y, target) in enumerate(zip(outputs, targets, strict=True)):
        if y is target:  # `call_into` has written it
            continue
        if y.dtype != target.dtype:
            y = _narrow(y, dtype_name(target.dtype), op.name)
        if y.shape != target.shape or y.dtype != target.dtype:  # copy_ would broadcast and convert
            actual, expected = (f"{dtype_name(t.dtype)}{list(t.shape)}" for t in (y, target))
            raise ArgumentError(
                f"result {i} of {op.name} is {actual}, where {expected} was expected."
            )
        target.copy_(y.detach() if y.requires_grad else y)


def _narrow(y: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Return `y`, 64-bit integers in a narrow `dtype` if asked: NOTE [narrow integers]."""
    if NARROW_INTEGERS.get(dtype_name(y.dtype)) != dtype:
        return y
    signed = y.view(torch.int64)  # torch has no minimum of uint64; large values become negative
    if signed.numel():
        least, most = (int(value) for value in torch.aminmax(signed))
        least = least % 2**64 if y.dtype is torch.uint64 else least
        check_fits_32_bits(least, most, dtype, name)
    return y.to(getattr(torch, dtype))


def _no_overlap(targets: Sequence[torch.Tensor], xs: Sequence[torch.Tensor]) -> bool:
    """Return True unless a target shares memory with an argument."""
    read = sorted([(start := x.data_ptr(), start + x.nbytes) for x in xs])
    # Of the arguments that begin before a target ends, the one that ends last decides.
    starts, stops = [start for start, _ in read], [*accumulate([stop for _, stop in read], max)]
    for y in targets:
        start = y.data_ptr()
        before = bisect_left(starts, start + y.nbytes)
        if before and stops[before - 1] > start:
            return False
    return True
