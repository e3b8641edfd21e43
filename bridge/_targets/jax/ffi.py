"""Calls from compiled programs through XLA's foreign function interface, without a compiler.

One handler is registered with XLA. Its only attribute is the name of an `FfiCall`. Its buffers have
the shapes and dtypes that the FfiCall was made for, so that only their addresses are read. A
handler in Python needs no compiler, and costs about 6 us a call.
"""

import ctypes
import itertools
import math
import pathlib
import re
import traceback
from collections.abc import Callable, Sequence
from ctypes import c_char, c_int64, c_void_p
from importlib import metadata
from typing import Any

import jax
import numpy as np

from bridge._arrays.jax.upstream.tracing import is_exporting
from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import DeviceError
from bridge._core.op import Op, Specs
from bridge._core.spec import ArraySpec
from bridge._core.tracebacks import shorten_traceback
from bridge._targets.jax import ffi_structs
from bridge._targets.jax.calls import Callee
from bridge._targets.jax.capsule import DeviceBuffer, new_capsule
from bridge._targets.jax.failures import record
from bridge._targets.jax.ffi_call import FfiCall, get_ffi_call, lookup
from bridge._targets.jax.program_keys import key_for

_TARGET = "gradbridge_call"
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL


def _check_version() -> None:
    """Raise unless the interface has the layout of `ffi_structs`."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    text = header.read_text(encoding="utf-8") if header.exists() else ""
    numbers = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    version = int(numbers.get("MAJOR", -1)), int(numbers.get("MINOR", -1))
    if (
        version[0] != ffi_structs.VERSION[0]
        or version < ffi_structs.VERSION
        or ctypes.sizeof(c_void_p) != 8
    ):
        installed, known = (".".join(map(str, v)) for v in (version, ffi_structs.VERSION))
        raise DeviceError(
            f"jaxlib {metadata.version('jaxlib')} has version {installed} of XLA's foreign "
            f"function interface, and bridge knows {known} on 64-bit machines. Install another "
            "jaxlib, or set GRADBRIDGE_JAX_TRANSPORT=callback, which copies arguments and results."
        )


_check_version()

# A call frame as words of 64 bits, read all at once: access by field costs five times as much.
_PAIR = c_int64 * 2
_FRAME = c_int64 * (ctypes.sizeof(ffi_structs.CallFrame) // 8)
_EXTENSION = ffi_structs.CallFrame.extension.offset // 8
_API = ffi_structs.CallFrame.api.offset // 8
_CONTEXT = ffi_structs.CallFrame.context.offset // 8
_OPERANDS = (ffi_structs.CallFrame.arguments.offset + ffi_structs.Arguments.values.offset) // 8
_RESULTS = (ffi_structs.CallFrame.results.offset + ffi_structs.Arguments.values.offset) // 8
_ATTRIBUTES = (ffi_structs.CallFrame.attributes.offset + ffi_structs.Attributes.values.offset) // 8
_DATA = ffi_structs.Buffer.data.offset


class BufferTable:
    """Buffers of known shapes and dtypes, whose addresses stand in a table."""

    def __init__(self, specs: Sequence[ArraySpec]) -> None:
        self._specs = specs
        self._table = c_int64 * len(specs)
        sizes = [(s.shape, np.dtype(s.dtype), math.prod(s.shape)) for s in specs]
        self._layouts: list[Any] = [
            (shape, dtype, c_char * (n * dtype.itemsize)) for shape, dtype, n in sizes
        ]

    def numpy_arrays(self, address: int) -> list[np.ndarray]:
        """Make NumPy arrays over the buffers of the table at `address`."""
        arrays: list[np.ndarray] = []
        buffers = self._read_table(address)
        for buffer, (shape, dtype, memory) in zip(buffers, self._layouts, strict=True):
            data = c_int64.from_address(buffer + _DATA).value
            # An array without elements has no address.
            arrays.append(np.ndarray(shape, dtype, memory.from_address(data) if data else None))
        return arrays

    def device_buffers(self, address: int, device: int) -> list[DeviceBuffer]:
        """Make objects with `__dlpack__` over the buffers, on a CUDA device."""
        data = [c_int64.from_address(buffer + _DATA).value for buffer in self._read_table(address)]
        pairs = zip(data, self._specs, strict=True)
        return [DeviceBuffer(at, spec, (_CUDA, device)) for at, spec in pairs]

    def _read_table(self, address: int) -> Any:
        return self._table.from_address(address) if address else ()


_CUDA = 2  # kDLCUDA


def _look_up_call(frame_words: Sequence[int]) -> FfiCall:
    """Return the FfiCall that a call frame names in its only attribute."""
    span = c_int64.from_address(frame_words[_ATTRIBUTES]).value
    text, length = _PAIR.from_address(span)
    return lookup(ctypes.string_at(text, length))


def _make_handler(run: Callable[[Sequence[int], int], None]) -> Any:
    """Make the function that XLA calls with a frame; `run` takes its words and its address."""

    @ffi_structs.FUNCTION
    def handle(frame: int) -> int | None:
        frame_words = _FRAME.from_address(frame)[:]
        if frame_words[_EXTENSION]:
            return _write_metadata(frame_words)
        try:
            run(frame_words, frame)
        except BaseException as error:  # noqa: BLE001 - ctypes would drop an error that leaves
            record(error)
            return _make_error(frame_words[_API], error)
        return None

    return handle


@_make_handler
def _execute_on_host(frame_words: Sequence[int], _: int) -> None:
    ffi_call = _look_up_call(frame_words)
    operands, results = ffi_call.buffer_tables
    ffi_call(
        operands.numpy_arrays(frame_words[_OPERANDS]), results.numpy_arrays(frame_words[_RESULTS])
    )


@_make_handler
def _execute_on_device(frame_words: Sequence[int], _: int) -> None:
    ffi_call, stream = _look_up_call(frame_words), _read_stream(frame_words)
    operands, results = (table.device_buffers for table in ffi_call.buffer_tables)
    ffi_call(
        operands(frame_words[_OPERANDS], stream[0]),
        results(frame_words[_RESULTS], stream[0]),
        stream,
    )


# NOTE [how long XLA may call]
# A program can outlive the Python object that was compiled: while another thread executes it. So it
# cannot be that object that keeps an FfiCall alive. Instead, XLA gets a state, the number of the
# FfiCall, when it makes the program, and releases the state when it frees the program.
_kept_by_programs: dict[int, FfiCall] = {}
_numbers = itertools.count(1)
_state_type = c_int64(0)
_state_name = b"gradbridge.task"


@ctypes.CFUNCTYPE(None, c_void_p)
def _release_state(number: int) -> None:
    _kept_by_programs.pop(number, None)


_info = ffi_structs.TypeInfo(
    ctypes.sizeof(ffi_structs.TypeInfo), deleter=ctypes.cast(_release_state, c_void_p).value
)


@_make_handler
def _instantiate(frame_words: Sequence[int], frame: int) -> None:
    number, ffi_call = next(_numbers), _look_up_call(frame_words)
    ffi_call.buffer_tables = ffi_call.buffer_tables or (
        BufferTable(ffi_call.operands),
        BufferTable(ffi_call.results),
    )
    _kept_by_programs[number] = ffi_call
    stage = ffi_structs.CallFrame.from_address(frame).stage
    state = (frame_words[_CONTEXT], stage, ctypes.addressof(_state_type), number)
    _call_api(frame_words, "State_Set", ffi_structs.StateSet, *state)


def _write_metadata(frame_words: Sequence[int]) -> None:
    """Answer a call that asks for the API version of this handler and the type of its state."""
    if not _state_type.value:
        info, kind = ctypes.addressof(_info), ctypes.addressof(_state_type)
        name = (_state_name, len(_state_name))
        _call_api(frame_words, "Type_Register", ffi_structs.TypeRegister, *name, kind, info)
    metadata = ffi_structs.MetadataExtension.from_address(frame_words[_EXTENSION]).metadata.contents
    metadata.version.major, metadata.version.minor = ffi_structs.VERSION
    metadata.traits, metadata.state_type = 0, _state_type.value


def _call_api(frame_words: Sequence[int], name: str, structure: Any, *fields: Any) -> Any:
    """Call a function of XLA; return the structure of its arguments, which it fills in."""
    arguments = structure(_struct_size(structure), None, *fields)
    function = ffi_structs.FUNCTION(getattr(ffi_structs.Api.from_address(frame_words[_API]), name))
    if function(ctypes.addressof(arguments)):
        raise DeviceError(f"XLA's function {name} failed.")
    return arguments


def _read_stream(frame_words: Sequence[int]) -> DeviceStream:
    """Return the device and the stream that a call frame is for."""
    stream = _call_api(frame_words, "Stream_Get", ffi_structs.StreamGet, frame_words[_CONTEXT])
    device = _call_api(
        frame_words, "DeviceOrdinal_Get", ffi_structs.OrdinalGet, frame_words[_CONTEXT]
    )
    return device.ordinal, stream.stream or 0


def _make_error(api: int, error: BaseException) -> int:
    """Make an error of XLA that shows `error` with its traceback."""
    shorten_traceback(error)
    summary = "".join(traceback.format_exception_only(error))
    text = f"{summary}\n{''.join(traceback.format_exception(error))}"
    message = text.replace("\0", "\\0").encode("utf-8", "replace")
    size = _struct_size(ffi_structs.ErrorCreate)
    arguments = ffi_structs.ErrorCreate(size, None, message, _INTERNAL)
    create = ffi_structs.Api.from_address(api).Error_Create
    return ffi_structs.FUNCTION(create)(ctypes.addressof(arguments))


def _struct_size(structure: type[ctypes.Structure]) -> int:
    """Return the size that XLA expects of a structure: without padding after its last field."""
    name, field_type = structure._fields_[-1][:2]
    return getattr(structure, name).offset + ctypes.sizeof(field_type)


def _register() -> None:
    for platform, handler in (("cpu", _execute_on_host), ("CUDA", _execute_on_device)):
        stages = {"instantiate": _instantiate, "execute": handler}
        capsules = {
            stage: new_capsule(ctypes.cast(function, c_void_p).value, None, None)
            for stage, function in stages.items()
        }
        jax.ffi.register_ffi_target(_TARGET, capsules, platform=platform)


_register()


def lower(
    ctx: Any, operands: Sequence[Any], op: Op, callee: Callee, specs: Specs, *, effect: bool
) -> Sequence[Any]:
    """Emit a call of `op` into a program that is being compiled, which keeps its FfiCall alive.

    With an `effect`, the call is made even if nothing uses its results.
    """
    if is_exporting(ctx):
        name = key_for(op, callee, specs)
    else:
        ffi_call = get_ffi_call(op, callee, specs)
        ctx.module_context.add_keepalive(ffi_call)
        name = ffi_call.name
    lowering = jax.ffi.ffi_lowering(_TARGET, has_side_effect=effect)
    return lowering(ctx, *operands, task=name)
