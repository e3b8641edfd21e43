"""The dtypes that values have within lowered code."""

import torch

# Torch computes little with unsigned integers of more than 8 bits: they are carried in signed ones
# that are wider, of 64 bits by their bits.
_UNSIGNED = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}
_PLAIN = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "complex64",
    "complex128",
]
CARRIERS = {**{dtype: dtype for dtype in _PLAIN}, **_UNSIGNED}
_DTYPES = {dtype: getattr(torch, carrier) for dtype, carrier in CARRIERS.items()}


def dtype_of(dtype: str) -> torch.dtype:
    """Return the dtype of torch in which `dtype` is carried."""
    return _DTYPES[dtype]


def carried(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return a tensor of the user, of `dtype`, as lowered code computes with it."""
    if dtype not in _UNSIGNED:
        return x
    return x.view(torch.int64) if dtype == "uint64" else x.to(dtype_of(dtype))


def released(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return a result of lowered code as the user sees it."""
    if dtype not in _UNSIGNED:
        return x
    return x.view(torch.uint64) if dtype == "uint64" else x.to(getattr(torch, dtype))
