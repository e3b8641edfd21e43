"""Calls from compiled programs through XLA's foreign function interface, without a compiler.

One handler is registered with XLA. Its only attribute is the name of a task; the shapes and dtypes
of its buffers are those that the task was made for, so that of each buffer only the address is
read. Writing this handler in Python takes no compiler, and costs some 6 us a call.
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

from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import DeviceError
from bridge._core.op import Op, Specs
from bridge._core.spec import ArraySpec
from bridge._core.tracebacks import shorten_traceback
from bridge._targets.jax import ffi_structs
from bridge._targets.jax.calls import CallSite
from bridge._targets.jax.capsule import DeviceBuffer, new_capsule
from bridge._targets.jax.failures import record
from bridge._targets.jax.ffi_call import FfiCall, ffi_call, lookup
from bridge._targets.jax.internals import is_exporting
from bridge._targets.jax.program_keys import key_for

_TARGET = "gradbridge_call"
_INTERNAL = 13  # XLA_FFI_Error_Code_INTERNAL


def _check_version() -> None:
    """Raise unless the interface is laid out as `_abi` says."""
    header = pathlib.Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    text = header.read_text(encoding="utf-8") if header.exists() else ""
    found = dict(re.findall(r"#define XLA_FFI_API_(MAJOR|MINOR) (\d+)", text))
    version = int(found.get("MAJOR", -1)), int(found.get("MINOR", -1))
    if (
        version[0] != ffi_structs.VERSION[0]
        or version < ffi_structs.VERSION
        or ctypes.sizeof(c_void_p) != 8
    ):
        theirs, ours = (".".join(map(str, v)) for v in (version, ffi_structs.VERSION))
        raise DeviceError(
            f"jaxlib {metadata.version('jaxlib')} has version {theirs} of XLA's foreign function "
            f"interface, and bridge speaks {ours} on 64-bit machines. Install another "
            "jaxlib, or set GRADBRIDGE_JAX_TRANSPORT=callback, which copies arguments and results."
        )


_check_version()

# A call frame as words of 64 bits, which are read at once; field access costs five times as much.
_FRAME = c_int64 * (ctypes.sizeof(ffi_structs.CallFrame) // 8)


_EXTENSION, _API = (
    ffi_structs.CallFrame.extension.offset // 8,
    ffi_structs.CallFrame.api.offset // 8,
)
_CONTEXT = ffi_structs.CallFrame.context.offset // 8
_OPERANDS = (ffi_structs.CallFrame.arguments.offset + ffi_structs.Arguments.values.offset) // 8
_RESULTS = (ffi_structs.CallFrame.results.offset + ffi_structs.Arguments.values.offset) // 8
_ATTRIBUTES = (ffi_structs.CallFrame.attributes.offset + ffi_structs.Attributes.values.offset) // 8
_DATA = ffi_structs.Buffer.data.offset


class BufferTable:
    """Buffers of known shapes and dtypes, given by a table of addresses."""

    def __init__(self, specs: Sequence[ArraySpec]) -> None:
        self._specs = specs
        self._table = c_int64 * len(specs)
        about = [(s.shape, np.dtype(s.dtype), math.prod(s.shape)) for s in specs]
        self._kinds: list[Any] = [
            (shape, kind, c_char * (n * kind.itemsize)) for shape, kind, n in about
        ]

    def on_host(self, address: int) -> list[np.ndarray]:
        """NumPy arrays over the buffers."""
        found: list[np.ndarray] = []
        for at, (shape, dtype, memory) in zip(self._at(address), self._kinds, strict=True):
            data = c_int64.from_address(at + _DATA).value
            # An array without elements has no address.
            found.append(np.ndarray(shape, dtype, memory.from_address(data) if data else None))
        return found

    def on_device(self, address: int, device: int) -> list[DeviceBuffer]:
        """The same on a CUDA device, for DLPack."""
        data = [c_int64.from_address(at + _DATA).value for at in self._at(address)]
        rows = zip(data, self._specs, strict=True)
        return [DeviceBuffer(at, spec, (_CUDA, device)) for at, spec in rows]

    def _at(self, address: int) -> Any:
        return self._table.from_address(address) if address else ()


_CUDA = 2  # kDLCUDA


def _task_of(words: Sequence[int]) -> FfiCall:
    """The task that a call frame names in its only attribute."""
    span = c_int64.from_address(words[_ATTRIBUTES]).value
    at, length = (c_int64 * 2).from_address(span)
    return lookup(ctypes.string_at(at, length))


def _handler(run: Callable[[Sequence[int], int], None]) -> Any:
    """What XLA calls with the address of a frame, of which `run` is told the words too."""

    @ffi_structs.FUNCTION
    def handle(frame: int) -> int | None:
        words = _FRAME.from_address(frame)[:]
        if words[_EXTENSION]:
            return _write_metadata(words)
        try:
            run(words, frame)
        except BaseException as error:  # noqa: BLE001 - one that left this function would be lost
            record(error)
            return _failed(words[_API], error)
        return None

    return handle


@_handler
def _on_host(words: Sequence[int], _: int) -> None:
    found = _task_of(words)
    operands, results = found.rows
    found(operands.on_host(words[_OPERANDS]), results.on_host(words[_RESULTS]))


@_handler
def _on_device(words: Sequence[int], _: int) -> None:
    found, stream = _task_of(words), _stream(words)
    operands, results = (row.on_device for row in found.rows)
    found(operands(words[_OPERANDS], stream[0]), results(words[_RESULTS], stream[0]), stream)


# NOTE [how long XLA may call]
# A program outlives the Python object that was compiled, while a call of it is in flight on another
# thread. So that object cannot be what keeps a task: XLA is given a state to keep instead, when it
# makes the program, and gives it back when the program is no more.
_kept: dict[int, FfiCall] = {}
_numbers = itertools.count(1)
_state_type = c_int64(0)
_state_name = b"gradbridge.task"


@ctypes.CFUNCTYPE(None, c_void_p)
def _release_state(number: int) -> None:
    _kept.pop(number, None)


_info = ffi_structs.TypeInfo(
    ctypes.sizeof(ffi_structs.TypeInfo), deleter=ctypes.cast(_release_state, c_void_p).value
)


@_handler
def _instantiate(words: Sequence[int], frame: int) -> None:
    number, found = next(_numbers), _task_of(words)
    found.rows = found.rows or (BufferTable(found.operands), BufferTable(found.results))
    _kept[number] = found
    stage = ffi_structs.CallFrame.from_address(frame).stage
    state = (words[_CONTEXT], stage, ctypes.addressof(_state_type), number)
    _call_api(words, "State_Set", ffi_structs.StateSet, *state)


def _write_metadata(words: Sequence[int]) -> None:
    """Answer a call that asks for the version this handler was written for, and its state."""
    if not _state_type.value:
        info, kind = ctypes.addressof(_info), ctypes.addressof(_state_type)
        named = (_state_name, len(_state_name))
        _call_api(words, "Type_Register", ffi_structs.TypeRegister, *named, kind, info)
    answer = ffi_structs.MetadataExtension.from_address(words[_EXTENSION]).metadata.contents
    answer.version.major, answer.version.minor = ffi_structs.VERSION
    answer.traits, answer.state_type = 0, _state_type.value


def _call_api(words: Sequence[int], name: str, kind: Any, *fields: Any) -> Any:
    """The structure that a function of XLA was called with, and has filled in."""
    asked = kind(_size(kind), None, *fields)
    function = ffi_structs.FUNCTION(getattr(ffi_structs.Api.from_address(words[_API]), name))
    if function(ctypes.addressof(asked)):
        raise DeviceError(f"XLA's function {name} failed.")
    return asked


def _stream(words: Sequence[int]) -> DeviceStream:
    """Device and stream that a call frame is for."""
    stream = _call_api(words, "Stream_Get", ffi_structs.StreamGet, words[_CONTEXT])
    device = _call_api(words, "DeviceOrdinal_Get", ffi_structs.OrdinalGet, words[_CONTEXT])
    return device.ordinal, stream.stream or 0


def _failed(api: int, error: BaseException) -> int:
    """An error of XLA that shows `error` with its traceback."""
    shorten_traceback(error)
    first = "".join(traceback.format_exception_only(error))
    text = f"{first}\n{''.join(traceback.format_exception(error))}"
    message = text.replace("\0", "\\0").encode("utf-8", "replace")
    asked = ffi_structs.ErrorCreate(_size(ffi_structs.ErrorCreate), None, message, _INTERNAL)
    create = ffi_structs.Api.from_address(api).Error_Create
    return ffi_structs.FUNCTION(create)(ctypes.addressof(asked))


def _size(structure: type[ctypes.Structure]) -> int:
    """What XLA takes for the size of a structure: without padding behind its last field."""
    name, kind = structure._fields_[-1][:2]
    return getattr(structure, name).offset + ctypes.sizeof(kind)


def _register() -> None:
    for platform, handler in (("cpu", _on_host), ("CUDA", _on_device)):
        stages = {"instantiate": _instantiate, "execute": handler}
        capsules = {
            stage: new_capsule(ctypes.cast(function, c_void_p).value, None, None)
            for stage, function in stages.items()
        }
        jax.ffi.register_ffi_target(_TARGET, capsules, platform=platform)


_register()


def lower(
    ctx: Any, operands: Sequence[Any], op: Op, site: CallSite, specs: Specs, *, effect: bool
) -> Sequence[Any]:
    """A call of `op` in a program that is being compiled, which will keep its task alive.

    With an `effect` it is made whoever uses the results.
    """
    if is_exporting(ctx):
        name = key_for(op, site, specs)
    else:
        made = ffi_call(op, site, specs)
        ctx.module_context.add_keepalive(made)
        name = made.name
    lowering = jax.ffi.ffi_lowering(_TARGET, has_side_effect=effect)
    return lowering(ctx, *operands, task=name)
