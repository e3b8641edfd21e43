"""DLPack capsules over memory that XLA lends.

DLPack: https://dmlc.github.io/dlpack/latest/c_api.html
"""

import ctypes
import itertools
from ctypes import c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any

from bridge._core.spec import ArraySpec

_CODES = {"int": 0, "uint": 1, "float": 2, "bfloat": 4, "complex": 5, "bool": 6}
_FLOAT8_CODES = {
    "float8_e4m3fn": 10,
    "float8_e4m3fnuz": 11,
    "float8_e5m2": 12,
    "float8_e5m2fnuz": 13,
    "float8_e8m0fnu": 14,
}


def _dlpack_code(dtype: str) -> tuple[int, int]:
    """Return the kind of an element, by DLPack's number, and its bits."""
    if dtype in _FLOAT8_CODES:
        return _FLOAT8_CODES[dtype], 8
    kind = dtype.rstrip("0123456789")
    return _CODES[kind], int(dtype[len(kind) :] or 8)


class _Tensor(ctypes.Structure):
    """DLManagedTensor, with its device and dtype laid out flat."""

    _fields_ = [
        *(("data", c_void_p), ("device", c_int32), ("index", c_int32), ("ndim", c_int32)),
        *(("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)),
        *(("shape", c_void_p), ("strides", c_void_p), ("offset", c_uint64)),
        *(("context", c_void_p), ("deleter", c_void_p)),
    ]


_lent: dict[int, Any] = {}  # tensors that consumers still use, by number
_numbers = itertools.count(1)


@ctypes.CFUNCTYPE(None, c_void_p)
def _delete(address: int) -> None:
    _lent.pop(_Tensor.from_address(address).context, None)


_DELETER = ctypes.cast(_delete, c_void_p).value
# jax.ffi.pycapsule changes the prototype that ctypes.pythonapi shares among all its users.
new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, c_void_p, c_char_p, c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class DeviceBuffer:
    """A buffer that others read and write through `__dlpack__`, on the stream it was lent for."""

    def __init__(self, data: int, spec: ArraySpec, device: tuple[int, int]) -> None:
        self.shape, self.dtype = spec.shape, spec.dtype
        self._data, self._device = data, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    def __dlpack__(self, **_: Any) -> Any:
        # The memory was lent for one stream, whichever is asked for: `SourceArrays.execute_into`.
        number, sizes = next(_numbers), (c_int64 * len(self.shape))(*self.shape)
        code, bits = _dlpack_code(self.dtype)
        tensor = _Tensor(self._data, *self._device, len(self.shape), code, bits, 1)
        tensor.shape, tensor.context = ctypes.addressof(sizes), number
        tensor.deleter = _DELETER
        _lent[number] = tensor, sizes
        return new_capsule(ctypes.addressof(tensor), b"dltensor", None)
