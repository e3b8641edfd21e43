"""The array backend of NumPy, whose arrays any framework takes as arguments."""

import ctypes
import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import ArgumentError, CopyError, DeviceError
from bridge._core.op import Op
from bridge._core.sharding import WHOLE
from bridge._core.spec import (
    NARROW_INTEGERS,
    ArraySpec,
    check_fits_32_bits,
    check_output_count,
)


@functools.cache
def dtype_name(dtype: np.dtype) -> str:
    """Return the name of a dtype, which NumPy takes 3 us to make."""
    return dtype.name


def as_dlpack_dtype(x: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Return `x` as DLPack supports it: low precision as integers, and then the dtype's name."""
    name = dtype_name(x.dtype)
    if name in _NUMBERS:
        return x, None
    return x.view(f"uint{8 * x.itemsize}"), name


_NUMBERS = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}


def narrow_checked(x: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Return `x`, 64-bit integers in a narrow `dtype` if asked: NOTE [narrow integers]."""
    if NARROW_INTEGERS.get(x.dtype.name) != dtype.name:
        return x
    if x.size:
        check_fits_32_bits(int(x.min()), int(x.max()), dtype.name, name)
    return x.astype(dtype)


def copy_outputs(outputs: Sequence[np.ndarray], results: Sequence[np.ndarray], name: str) -> None:
    """Copy the outputs of the function `name` to `results`; raise if they are others."""
    check_output_count(outputs, results, name)
    for i, (y, result) in enumerate(zip(outputs, results, strict=True)):
        values = narrow_checked(y, result.dtype, name)
        if values.shape != result.shape or values.dtype != result.dtype:
            actual, expected = (ArraySpec(x.shape, x.dtype.name) for x in (y, result))
            raise ArgumentError(f"result {i} of {name} is {actual}, where {expected} was expected.")
        np.copyto(result, values)


class HostCapsule:
    """A DLPack capsule of host memory as an object with `__dlpack__` and `__dlpack_device__`."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    # By name: to collect the options in a dict would take half as long as the array of NumPy.
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> Any:
        del stream, max_version, dl_device, copy  # it is on the host, where it is shared
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class NumpyArrays:
    """NumPy's arrays, which are on the host and carry no gradient."""

    name = "numpy"
    imports_only_contiguous = False
    compute_context = None
    unwrap_key = None
    wrap_key = None
    copy_or_raise = None
    shards = WHOLE
    scalar_types = (np.generic,)
    rounding_advice = (
        ' Or pass dtype="float64" where it is wrapped: then the function computes in double, and '
        "its results are rounded to the precision of its arguments."
    )

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an array; a NumPy scalar counts as a Python number."""
        return isinstance(x, np.ndarray)

    def spec(self, x: Any) -> ArraySpec:
        """Return shape and dtype; raise unless `x` is an unmasked array of numbers."""
        if isinstance(x, np.ma.MaskedArray):
            raise ArgumentError("it is a masked array, whose mask would be lost. Pass `.filled()`.")
        name = dtype_name(x.dtype)
        if name not in _NUMBERS and not hasattr(ml_dtypes, name):
            raise ArgumentError(
                f"it is a NumPy array of dtype {x.dtype}, which no framework supports."
            )
        return ArraySpec(x.shape, name)

    def signature(self, x: Any) -> Hashable:
        """Return shape and dtype."""
        return x.shape, x.dtype

    def export(self, x: Any, *, dense: bool, copy: bool | None, gathered: bool = True) -> Any:
        """Return `x` itself if others can share its memory and write to it; else a copy."""
        self.spec(x)
        plain = x.flags.aligned and x.flags.writeable and x.dtype.isnative
        plain = plain and all(stride >= 0 and not stride % x.itemsize for stride in x.strides)
        if plain and (x.flags.forc or not dense):
            return x
        if copy is False:
            raise CopyError(
                "copy=False, but it is read-only, or has strides or a byte order that cannot be "
                "shared."
            )
        return np.array(x, dtype=x.dtype.newbyteorder("="), order="C", copy=True)

    def convert(self, x: Any, *, copy: bool | None) -> Any:
        """Make an array over the memory of `x`, or a copy of it."""
        if isinstance(x, np.ndarray):  # whose `__dlpack__` refuses the dtypes of `ml_dtypes`
            return np.array(x, copy=copy)
        return np.from_dlpack(x, copy=copy)

    def pytree_node_functions(self, x: Any) -> None:
        """Return None: NumPy has no pytrees."""
        return

    def address(self, x: Any) -> int:
        """Return where the values of `x` begin."""
        return x.ctypes.data

    def example(self, spec: ArraySpec) -> Any:
        """Make zeros of this spec."""
        return np.zeros(spec.shape, getattr(ml_dtypes, spec.dtype, spec.dtype))

    def borrowing_copy_reason(self, buffer: Any) -> str:
        """Return `""`: NumPy has views of whatever memory."""
        del buffer
        return ""

    def check_dtype(self, dtype: str) -> None:
        """Do nothing: NumPy has the dtypes of all frameworks."""

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from buffers to arrays over their memory."""
        return lambda buffers: [_borrow(x) for x in buffers]

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from outputs, which own their memory, to capsules."""
        return lambda outputs: [_release(y) for y in outputs]

    def execute_into(
        self, op: Op, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None
    ) -> None:
        """Execute `op` on the operands, and copy its outputs to the results."""
        if stream is not None:
            raise DeviceError(f"{op.name} is a function on NumPy arrays, which are on the host.")
        copy_outputs(op.call(*operands), results, op.name)


def _borrow(x: Any) -> Any:
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray) else x


def _release(y: np.ndarray) -> Any:
    buffer, low = as_dlpack_dtype(y)
    capsule = buffer.__dlpack__()
    if low is None:
        return capsule
    if low != "bfloat16":
        raise ArgumentError(f"a result of {low} cannot leave NumPy. Convert it in the function.")
    address = _capsule_address(capsule, b"dltensor")
    ctypes.c_uint8.from_address(address + _DTYPE_CODE).value = _BFLOAT
    return capsule


# NumPy has no code for bfloat16, but the standard has. In the struct DLTensor the code of the dtype
# comes after a pointer, the two integers of a device and the number of axes.
_DTYPE_CODE, _BFLOAT = 20, 4
_capsule_address = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_address.restype, _capsule_address.argtypes = (
    ctypes.c_void_p,
    [
        ctypes.py_object,
        ctypes.c_char_p,
    ],
)


ARRAYS = NumpyArrays()
