"""Products of arrays, in terms of products of matrices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bridge._lowering.dtypes import bit_width, is_complex, is_integer
from bridge._lowering.operations import Operations
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.rules.integers import wrap


def _product(i: Instruction, f: Operations) -> Callable[..., Any]:
    (left_sum, right_sum), (left_batch, right_batch) = i["contracting"], i["batch"]
    left, right = i.inputs[0].shape, i.inputs[1].shape
    left_free = [d for d in range(len(left)) if d not in (*left_sum, *left_batch)]
    right_free = [d for d in range(len(right)) if d not in (*right_sum, *right_batch)]
    batch = _size(left, left_batch)
    rows, inner, columns = _size(left, left_free), _size(left, left_sum), _size(right, right_free)
    left_order = (*left_batch, *left_free, *left_sum)
    right_order = (*right_batch, *right_sum, *right_free)
    head = (batch,) if left_batch else ()
    dtype = _working_dtype(i)

    def multiply(x: Any, y: Any) -> Any:
        x = f.permute(f.cast(x, dtype), left_order)
        y = f.permute(f.cast(y, dtype), right_order)
        x, y = f.reshape(x, (*head, rows, inner)), f.reshape(y, (*head, inner, columns))
        z = f.reshape(f.matmul(x, y), i.shape)
        if i.dtype == "bool":
            return f.native["ne"](z, 0)
        return wrap(f.cast(z, i.dtype), i.dtype, f)

    return multiply


def _size(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _working_dtype(i: Instruction) -> str:
    """Return the widest of the dtypes of operands and result."""
    if i.dtype == "bool":
        return "float32"
    dtypes = (i.inputs[0].dtype, i.inputs[1].dtype, i.dtype)
    kinds = {(is_integer(dtype), is_complex(dtype)) for dtype in dtypes}
    if len(kinds) > 1:
        raise i.refuse(f"it multiplies {dtypes[0]} and {dtypes[1]} to {dtypes[2]}.")
    if not is_integer(i.dtype) and bit_width(i.dtype) >= 32:
        return i.dtype
    widest = max(map(bit_width, dtypes))
    candidates = {dtype for dtype in dtypes if bit_width(dtype) == widest}
    if len(candidates) > 1:  # float16 and bfloat16, signed and unsigned integers
        return "int64" if is_integer(i.dtype) else "float32"
    return candidates.pop()


RULES = {"dot_general": _product}
