"""Ops evaluated on memory that a compiler handed out, with their outputs written there."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bridge._arrays.numpy import as_dlpack_dtype
from bridge._arrays.torch.dtypes import PLAIN_NUMPY, dtype_name
from bridge._arrays.torch.isolation import suspend_transforms
from bridge._core.errors import ArgumentError
from bridge._core.op import Op
from bridge._core.spec import NARROW_INTEGERS, check_output_count, check_range


def tensor_from_buffer(x: Any) -> torch.Tensor:
    """A tensor over the memory of a NumPy array, or of what has `__dlpack__`."""
    if not isinstance(x, np.ndarray):
        return torch.from_dlpack(x)
    if x.dtype in PLAIN_NUMPY:
        return torch.from_numpy(x)
    buffer, low = as_dlpack_dtype(x)
    return torch.from_numpy(buffer).view(getattr(torch, low or ""))


# Below this memory is at hand, and asking whether it overlaps costs more than a copy.
_LARGE = 2**18


def execute_into(op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
    """Evaluate `op` on NumPy arrays, or what has `__dlpack__`: `SourceArrays.execute_into`."""
    with suspend_transforms():
        _execute_into(op, operands, results)


def _execute_into(op: Op, operands: Sequence[Any], results: Sequence[Any]) -> None:
    xs, places = [*map(tensor_from_buffer, operands)], [*map(tensor_from_buffer, results)]
    large = op.notes.get("large")
    if large is None:
        large = op.notes["large"] = any(y.nbytes >= _LARGE for y in places)
    outputs = (
        op.call_into(places, xs)
        if large and op.call_into and _no_overlap(places, xs)
        else op.call(*xs)
    )
    check_output_count(outputs, results, op.name)
    for i, (y, place) in enumerate(zip(outputs, places, strict=True)):
        if y is place:
            continue
        if y.dtype != place.dtype:
            y = _narrow(y, dtype_name(place.dtype), op.name)
        if y.shape != place.shape or y.dtype != place.dtype:  # copy_ would stretch and convert
            got, wanted = (f"{dtype_name(t.dtype)}{list(t.shape)}" for t in (y, place))
            raise ArgumentError(f"result {i} of {op.name} is {got}, where {wanted} was expected.")
        place.copy_(y.detach() if y.requires_grad else y)


def _narrow(y: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """`y`, or its integers of 64 bits as those of a smaller `dtype`: NOTE [narrow integers]."""
    if NARROW_INTEGERS.get(dtype_name(y.dtype)) != dtype:
        return y
    words = y.view(torch.int64)  # torch has no minimum of uint64, whose large values are negative
    if words.numel():
        least, most = (int(value) for value in torch.aminmax(words))
        least = least % 2**64 if y.dtype is torch.uint64 else least
        check_range(least, most, dtype, name)
    return y.to(getattr(torch, dtype))


def _no_overlap(places: Sequence[torch.Tensor], xs: Sequence[torch.Tensor]) -> bool:
    """Whether no place shares memory with an argument, as XLA promises."""
    ours, theirs = ([(t.data_ptr(), t.data_ptr() + t.nbytes) for t in row] for row in (places, xs))
    pairs = itertools.product(ours, theirs)
    return all(end <= start or stop <= begin for (begin, end), (start, stop) in pairs)
