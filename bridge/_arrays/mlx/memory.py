"""The memory of MLX's arrays: reading it, and copying other frameworks' memory into it.

NOTE [memory of their own]
Only MLX knows if an array shares its buffer; `mx.asarray(copy=True)` moves an unshared buffer
instead of copying it. Each operation costs 7 us if MLX's thread is asleep. So this one is left out
for arrays that are known not to share, and results are made contiguous only after one of the same
shape was not.
"""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import mlx.core as mx
import numpy as np

from bridge._arrays.numpy import HostCapsule
from bridge._core.errors import ArgumentError, DeviceError
from bridge._core.spec import ArraySpec, dtype_advice

DTYPES = {
    "bool": mx.bool_,
    **{f"int{bits}": getattr(mx, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": getattr(mx, f"uint{bits}") for bits in (8, 16, 32, 64)},
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "float32": mx.float32,
    "float64": mx.float64,
    "complex64": mx.complex64,
}
# By dtype: reading the name of a dtype costs 2 us.
_OF_NUMPY = {
    np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name): dtype
    for name, dtype in DTYPES.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_REPLACEMENTS = {"complex128": "complex64", "float8": "float32 or its bytes as uint8"}
_HOSTS = (1, 3)  # kDLCPU and kDLCUDAHost; MLX's own memory is host memory on every machine


def dtype_of(name: str) -> mx.Dtype:
    """Return MLX's dtype of this name; raise if there is none, rather than narrow."""
    if name not in DTYPES:
        raise ArgumentError(
            f"MLX has no dtype {name}. Convert it yourself, to {replacement_advice(name)}."
        )
    return DTYPES[name]


def replacement_advice(name: str) -> str:
    """Say what an array of a dtype that MLX does not support can be converted to."""
    replacements = (to for prefix, to in _REPLACEMENTS.items() if name.startswith(prefix))
    return next(replacements, dtype_advice(name))


def copy_from(x: Any) -> mx.array:
    """Copy an array of another framework: MLX cannot share memory on the CPU."""
    if isinstance(x, np.ndarray):
        return _from_numpy(x)
    dtype = dtype_of(str(x.dtype).removeprefix("torch."))
    if x.__dlpack_device__()[0] not in _HOSTS:
        raise DeviceError("it is on another device, which MLX cannot read. Move it to the CPU.")
    return mx.array(x, dtype=dtype)  # without the dtype, MLX narrows float64


def from_capsule(x: Any) -> mx.array:
    """Copy the array in a capsule of host memory, or an array."""
    if hasattr(x, "__dlpack__"):
        return copy_from(x)
    try:
        view = np.from_dlpack(HostCapsule(x))  # for the dtype, which a capsule does not tell
    except (BufferError, RuntimeError):  # NumPy has no bfloat16; since 2.5 a BufferError
        return mx.array(x)
    return copy_from(view)


def _from_numpy(x: np.ndarray) -> mx.array:
    dtype = _OF_NUMPY.get(x.dtype) or dtype_of(x.dtype.name)
    # MLX refuses reversed axes, and also copies the gaps between elements.
    dense = x if x.flags.forc and x.dtype.isnative else contiguous_copy(x)
    return mx.array(dense, dtype=dtype)  # without the dtype, MLX narrows float64


def host_view(x: mx.array) -> np.ndarray:
    """Return a NumPy array over the memory of `x`, which must be evaluated; it keeps `x` alive."""
    if x.dtype == mx.uint64:  # NumPy gets it as `unsigned long long`, unknown to torch
        return np.asarray(x).view(np.uint64)
    if x.dtype != mx.bfloat16:  # the buffer protocol has no bfloat16
        return np.asarray(x)
    memory: Any = x
    if memoryview(memory).c_contiguous:
        return np.ndarray(x.shape, ml_dtypes.bfloat16, memory)
    return np.asarray(x.view(mx.uint16)).view(ml_dtypes.bfloat16)


def has_shareable_strides(x: np.ndarray) -> bool:
    """Return True if others can share the memory of `x`: no axis is reversed or overlaps."""
    axes = zip(x.strides, x.shape, strict=True)
    axes = sorted((stride, size) for stride, size in axes if size > 1)
    end = x.itemsize
    for stride, size in axes:
        if stride < end:  # reversed, repeated or overlapping
            return False
        end = stride * size
    return True


def contiguous_view(x: mx.array) -> np.ndarray:
    """Return a contiguous `host_view`, a copy if necessary: negative strides abort torch."""
    view = host_view(x)
    return view if view.flags.c_contiguous else contiguous_copy(view)


def contiguous_copy(x: np.ndarray) -> np.ndarray:
    """Copy `x` in row-major order and native byte order."""
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C", copy=True)


def zeros(spec: ArraySpec) -> mx.array:
    """Make zeros in memory of their own, which `overwrite` may write to."""
    dtype = ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype
    return copy_from(np.zeros(spec.shape, dtype))


def overwrite(target: mx.array, x: mx.array) -> None:
    """Write the values of `x`, which must be evaluated, into the memory of `target`."""
    np.copyto(host_view(target), host_view(x))


def own_memory(xs: Sequence[mx.array]) -> tuple[mx.array, ...]:
    """Copy those of `xs` that may share memory: NOTE [memory of their own]."""
    return tuple([mx.asarray(x, copy=True) for x in xs])


def is_contiguous(x: mx.array) -> bool:
    """Return True if `x`, which must be evaluated, is contiguous in row-major order."""
    memory: Any = x
    return memoryview(memory).c_contiguous


def dlpack_capsule(x: mx.array) -> Any:
    """Return a DLPack capsule over the memory of `x`, as host memory even if Metal computes."""
    if not x.shape:  # torch refuses a scalar at an offset in its buffer
        x = copy_from(host_view(x))
    return x.__dlpack__(dl_device=(1, 0))
