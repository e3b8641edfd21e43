"""The array backend of NumPy, whose arrays any framework takes as arguments."""

from collections.abc import Hashable
from typing import Any

import ml_dtypes
import numpy as np

from bridge._core.errors import ArgumentError, CopyError
from bridge._core.spec import NARROW_INTEGERS, ArraySpec, check_fits_32_bits


def as_dlpack_dtype(x: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Return `x` as DLPack supports it: low precision as integers, and then the dtype's name."""
    name = x.dtype.name
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


class HostCapsule:
    """A DLPack capsule of host memory as an object with `__dlpack__` and `__dlpack_device__`."""

    __slots__ = ("_capsule",)

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


class NumpyArrays:
    """NumPy's arrays, which are on the host and carry no gradient."""

    name = "numpy"
    imports_only_contiguous = False

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an array; a NumPy scalar counts as a Python number."""
        return isinstance(x, np.ndarray)

    def spec(self, x: Any) -> ArraySpec:
        """Return shape and dtype; raise unless `x` is an unmasked array of numbers."""
        if isinstance(x, np.ma.MaskedArray):
            raise ArgumentError("it is a masked array, whose mask would be lost. Pass `.filled()`.")
        if x.dtype.name not in _NUMBERS and not hasattr(ml_dtypes, x.dtype.name):
            raise ArgumentError(
                f"it is a NumPy array of dtype {x.dtype}, which no framework supports."
            )
        return ArraySpec(x.shape, x.dtype.name)

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
        return np.from_dlpack(x, copy=copy)

    def node_functions(self, x: Any) -> None:
        """Return None: NumPy has no pytrees."""
        return


ARRAYS = NumpyArrays()
