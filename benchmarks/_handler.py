"""The floor for torch in compiled JAX programs: handlers of XLA's interface, written for a case.

Each is made for one function and for shapes that are known, and does what every handler in Python
has to do: find the addresses of its buffers, make tensors of them, compute, and fill the results.
"""

import ctypes
import itertools
import math
from collections.abc import Callable, Sequence
from ctypes import c_char, c_int64, c_void_p
from typing import Any

import jax
import jax.numpy as jnp
import torch

from bridge._targets.jax import ffi_structs

Function = Callable[..., tuple[torch.Tensor, ...]]

_numbers = itertools.count()
_kept: list[Any] = []


def handler(fn: Function, shapes: Sequence[tuple[int, ...]], results: int) -> Callable[..., Any]:
    """`fn`, of float32 tensors of these `shapes`, with as many `results` of the first shape."""
    frames = c_int64 * (ctypes.sizeof(ffi_structs.CallFrame) // 8)
    offset = ffi_structs.Arguments.values.offset
    operands_at = (ffi_structs.CallFrame.arguments.offset + offset) // 8
    results_at = (ffi_structs.CallFrame.results.offset + offset) // 8

    def tensors(table: int, sizes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        found = []
        for at, size in zip((c_int64 * len(sizes)).from_address(table), sizes, strict=True):
            data = c_int64.from_address(at + ffi_structs.Buffer.data.offset).value
            memory = (c_char * (4 * math.prod(size))).from_address(data)
            found.append(torch.frombuffer(memory, dtype=torch.float32).view(size))
        return found

    @ffi_structs.FUNCTION
    def call(frame: int) -> None:
        words = frames.from_address(frame)[:]
        if words[1]:
            asked = ffi_structs.MetadataExtension.from_address(words[1]).metadata.contents
            asked.version.major, asked.version.minor = ffi_structs.VERSION
            asked.traits = 0
            return
        outputs = fn(*tensors(words[operands_at], shapes))
        places = tensors(words[results_at], [shapes[0]] * results)
        for place, y in zip(places, outputs, strict=True):
            place.copy_(y)

    name = f"benchmark_{next(_numbers)}"
    _kept.append(call)
    capsule = jax.ffi.pycapsule(ctypes.cast(call, c_void_p).value)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    like = [jax.ShapeDtypeStruct(shapes[0], jnp.float32)] * results
    return jax.ffi.ffi_call(name, like)
