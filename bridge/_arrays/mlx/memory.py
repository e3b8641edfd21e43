"""The memory of MLX's arrays: how it is read, and how arrays are made of that of others.

NOTE [memory of their own]
Only MLX knows who else holds a buffer, and it moves one that nobody else does into a copy. Each
operation costs 7 us beside a thread that has gone to sleep, so that this is left out where it is
known that nobody does, and what makes results dense until one of that shape has had gaps.
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
# By dtype: their names cost 2 us to ask for.
_OF_NUMPY = {
    np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name): dtype
    for name, dtype in DTYPES.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_INSTEAD = {"complex128": "complex64", "float8": "float32 or its bytes as uint8"}
_HOSTS = (1, 3)  # kDLCPU and kDLCUDAHost; MLX's own memory is host memory on every machine


def dtype_of(name: str) -> mx.Dtype:
    """MLX's dtype of a name; one that it lacks is refused, never narrowed."""
    if name not in DTYPES:
        raise ArgumentError(
            f"MLX has no dtype {name}. Convert it yourself, to {replacement(name)}."
        )
    return DTYPES[name]


def replacement(name: str) -> str:
    """What an array of a dtype that MLX lacks can be converted to."""
    known = (to for key, to in _INSTEAD.items() if name.startswith(key))
    return next(known, dtype_advice(name))


def copy_from(x: Any) -> mx.array:
    """A copy of an array of another framework; MLX cannot share memory on the CPU."""
    if isinstance(x, np.ndarray):
        return _from_numpy(x)
    dtype = dtype_of(str(x.dtype).removeprefix("torch."))
    if x.__dlpack_device__()[0] not in _HOSTS:
        raise DeviceError("it lives on another device, which MLX cannot read. Move it to the CPU.")
    return mx.array(x, dtype=dtype)  # without the dtype, MLX narrows float64


def from_capsule(x: Any) -> mx.array:
    """A copy of what a capsule of host memory holds, or of an array."""
    if hasattr(x, "__dlpack__"):
        return copy_from(x)
    try:
        view = np.from_dlpack(HostCapsule(x))  # which has a dtype, as the capsule has not
    except (BufferError, RuntimeError):  # NumPy lacks bfloat16: one since 2.5, the other before
        return mx.array(x)
    return copy_from(view)


def _from_numpy(x: np.ndarray) -> mx.array:
    dtype = _OF_NUMPY.get(x.dtype) or dtype_of(x.dtype.name)
    # MLX refuses reversed axes and copies gaps between elements along.
    dense = x if x.flags.forc and x.dtype.isnative else contiguous_copy(x)
    return mx.array(dense, dtype=dtype)  # without the dtype, MLX narrows float64


def host_view(x: mx.array) -> np.ndarray:
    """NumPy's array over the memory of `x`, which has been evaluated; it keeps it alive."""
    if x.dtype == mx.uint64:  # the buffer protocol calls it `unsigned long long`, torch does not
        return np.asarray(x).view(np.uint64)
    if x.dtype != mx.bfloat16:  # which the buffer protocol lacks
        return np.asarray(x)
    memory: Any = x
    if memoryview(memory).c_contiguous:
        return np.ndarray(x.shape, ml_dtypes.bfloat16, memory)
    return np.asarray(x.view(mx.uint16)).view(ml_dtypes.bfloat16)


def is_plain(x: np.ndarray) -> bool:
    """Whether others can share the memory of `x`, and write to one element at a time."""
    about = zip(x.strides, x.shape, strict=True)
    axes = sorted((stride, size) for stride, size in about if size > 1)
    end = x.itemsize
    for stride, size in axes:
        if stride < end:  # reversed, repeated or overlapping
            return False
        end = stride * size
    return True


def contiguous_view(x: mx.array) -> np.ndarray:
    """The same without gaps and reversed axes: torch ends the process over a negative stride."""
    found = host_view(x)
    return found if found.flags.c_contiguous else contiguous_copy(found)


def contiguous_copy(x: np.ndarray) -> np.ndarray:
    """A dense copy of `x`."""
    return np.array(x, dtype=x.dtype.newbyteorder("="), order="C", copy=True)


def zeros(spec: ArraySpec) -> mx.array:
    """Zeros in memory of their own, which `overwrite` may write to."""
    dtype = ml_dtypes.bfloat16 if spec.dtype == "bfloat16" else spec.dtype
    return copy_from(np.zeros(spec.shape, dtype))


def overwrite(place: mx.array, x: mx.array) -> None:
    """Write the values of `x`, which have been evaluated, into the memory of `place`."""
    np.copyto(host_view(place), host_view(x))


def own_memory(xs: Sequence[mx.array]) -> tuple[mx.array, ...]:
    """`xs` in memory of their own; temporaries are not copied: NOTE [memory of their own]."""
    return tuple([mx.asarray(x, copy=True) for x in xs])


def is_contiguous(x: mx.array) -> bool:
    """Whether `x`, which has been evaluated, fills its memory, row after row."""
    memory: Any = x
    return memoryview(memory).c_contiguous


def dlpack_capsule(x: mx.array) -> Any:
    """A DLPack capsule over the memory of `x`, on the host also where Metal computes."""
    if not x.shape:  # torch refuses numbers that do not start where their memory does
        x = copy_from(host_view(x))
    return x.__dlpack__(dl_device=(1, 0))
