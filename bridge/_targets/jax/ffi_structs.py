"""The structures of XLA's foreign function interface, `xla/ffi/api/c_api.h`, for ctypes.

The layout is that of API version 0.3. XLA appends to its structures and says in each how large it
is, so a newer minor version is readable; another major one is not.
"""

import ctypes
from ctypes import c_char_p, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from typing import ClassVar

VERSION = (0, 3)


class Structure(ctypes.Structure):
    """A structure of the interface, which begins with its own size."""

    _head: ClassVar = [("struct_size", c_size_t), ("extension", c_void_p)]


class Version(Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = [*Structure._head, ("major", c_int), ("minor", c_int)]


class Buffer(Structure):
    """XLA_FFI_Buffer."""

    _fields_ = [
        *Structure._head,
        ("dtype", c_int),
        ("data", c_void_p),
        ("rank", c_int64),
        ("sizes", c_void_p),
    ]


class Arguments(Structure):
    """XLA_FFI_Args, and XLA_FFI_Rets alike."""

    _fields_ = [*Structure._head, ("size", c_int64), ("types", c_void_p), ("values", c_void_p)]


class Attributes(Structure):
    """XLA_FFI_Attrs, sorted by name."""

    _fields_ = [
        *Structure._head,
        ("size", c_int64),
        ("types", c_void_p),
        ("names", c_void_p),
        ("values", c_void_p),
    ]


class CallFrame(Structure):
    """XLA_FFI_CallFrame."""

    _fields_ = [
        *Structure._head,
        ("api", c_void_p),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", Arguments),
        ("results", Arguments),
        ("attributes", Attributes),
    ]


class Metadata(Structure):
    """XLA_FFI_Metadata: what a handler reports about itself."""

    _fields_ = [
        *(("struct_size", c_size_t), ("version", Version), ("traits", c_uint32)),
        ("state_type", c_int64),
    ]


class MetadataExtension(Structure):
    """XLA_FFI_Metadata_Extension: marks a call that only asks for the metadata."""

    _fields_ = [
        ("struct_size", c_size_t),
        ("type", c_int),
        ("next", c_void_p),
        ("metadata", ctypes.POINTER(Metadata)),
    ]


class ErrorCreate(Structure):
    """XLA_FFI_Error_Create_Args."""

    _fields_ = [*Structure._head, ("message", c_char_p), ("code", c_int)]


class TypeInfo(Structure):
    """XLA_FFI_TypeInfo: how XLA frees a state that a handler has set."""

    _fields_ = [*Structure._head, ("deleter", c_void_p)]


class TypeRegister(Structure):
    """XLA_FFI_Type_Register_Args."""

    _fields_ = [
        *Structure._head,
        *(("name", c_char_p), ("length", c_size_t), ("type", c_void_p), ("info", c_void_p)),
    ]


class StateSet(Structure):
    """XLA_FFI_State_Set_Args."""

    _fields_ = [
        *Structure._head,
        *(("context", c_void_p), ("stage", c_int), ("type", c_void_p), ("state", c_void_p)),
    ]


class StreamGet(Structure):
    """XLA_FFI_Stream_Get_Args."""

    _fields_ = [*Structure._head, ("context", c_void_p), ("stream", c_void_p)]


class OrdinalGet(Structure):
    """XLA_FFI_DeviceOrdinal_Get_Args."""

    _fields_ = [*Structure._head, ("context", c_void_p), ("ordinal", c_int32)]


_FUNCTIONS = (
    *("Error_Create", "Error_GetMessage", "Error_Destroy", "Handler_Register", "Stream_Get"),
    *("Type_Register", "ExecutionContext_Get", "State_Set", "State_Get"),
    *("DeviceMemory_Allocate", "DeviceMemory_Free", "ThreadPool_Schedule"),
    *("ThreadPool_NumThreads", "Future_Create", "Future_SetAvailable", "Future_SetError"),
    *("RunId_Get", "DeviceOrdinal_Get"),
)
FUNCTION = ctypes.CFUNCTYPE(c_void_p, c_void_p)


class Api(Structure):
    """XLA_FFI_Api: the functions of XLA that a handler can call."""

    _fields_ = [
        *Structure._head,
        ("version", Version),
        ("internal", c_void_p),
        *((name, c_void_p) for name in _FUNCTIONS),
    ]
