"""The dtypes of PyTorch that have counterparts in other frameworks."""

from typing import Any

import ml_dtypes
import numpy as np
import torch

PLAIN = {
    torch.bool,
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128),
}
# By dtype: reading the name of a dtype costs 4 us.
PLAIN_NUMPY = {np.dtype(str(dtype).removeprefix("torch.")) for dtype in PLAIN}
# NumPy has these from ml_dtypes; Tensor.numpy() refuses them, so they are converted as integers.
AS_INTEGERS = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e4m3fnuz: (torch.uint8, ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
    torch.float8_e5m2fnuz: (torch.uint8, ml_dtypes.float8_e5m2fnuz),
    torch.float8_e8m0fnu: (torch.uint8, ml_dtypes.float8_e8m0fnu),
}


def dtype_name(dtype: Any) -> str:
    """Return NumPy's name of a dtype of torch; both use the same words."""
    return str(dtype).removeprefix("torch.")
