"""Ops that compiled programs execute on buffers, and look up by name.

NOTE [the end of the process]
XLA makes calls on threads of its own. A thread that enters Python while the interpreter shuts down
ends the process by a signal. So at exit we wait for a small program on each device, which comes
after all others, and then for the calls that are still running.

NOTE [who keeps an FfiCall alive]
The tables hold FfiCalls weakly. A compiled program keeps those that it calls, and the equations of
a trace keep what they are made of. When the last of both is gone, so is the user's function.
"""

import atexit
import itertools
import os
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from typing import Any

import jax

from bridge._arrays.jax.upstream.tracing import jax_refuser
from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import ArgumentError
from bridge._core.function_protocols import ExecuteInto
from bridge._core.op import Op, Specs
from bridge._targets.jax.calls import Callee
from bridge._targets.jax.program_keys import key_for, op_for

_PROCESS = uuid.uuid4().hex[:12]
_numbers = itertools.count()
_busy_threads: set[int] = set()
_pids: set[int] = set()  # processes that made FfiCalls: a forked child inherits its parent's


class FfiCall:
    """An Op that compiled programs execute on buffers, and refer to by name."""

    def __init__(self, op: Op, execute_into: ExecuteInto, operands: Specs, name: str) -> None:
        self.op, self.operands, self.results = op, operands, op.output_specs()
        self.name = name
        self._execute_into, self._refuse_jax = execute_into, jax_refuser(op.name)
        self.buffer_tables: Any = None  # set by a transport, to make arrays over buffers

    def __call__(
        self, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None = None
    ) -> None:
        """Execute the Op on buffers."""
        thread = threading.get_ident()
        _busy_threads.add(thread)
        try:
            with self._refuse_jax():
                self._execute_into(self.op, operands, results, stream)
        finally:
            _busy_threads.discard(thread)


@atexit.register
def _await_calls() -> None:
    """Wait for calls: NOTE [the end of the process]."""
    if _pids != {os.getpid()}:  # JAX never ran here; a forked child has none of its threads
        return
    for device in jax.local_devices():
        jax.block_until_ready(jax.device_put(0, device) + 1)
    while _busy_threads:
        time.sleep(0.001)


_by_name: weakref.WeakValueDictionary[bytes, FfiCall] = weakref.WeakValueDictionary()
_by_op: weakref.WeakValueDictionary[Any, FfiCall] = weakref.WeakValueDictionary()
_tables_lock = threading.Lock()


def get_ffi_call(op: Op, callee: Callee, operands: Specs) -> FfiCall:
    """Return the FfiCall of an Op, the same one for as long as it is alive."""
    ffi_call = _by_op.get((op, callee.execute_into, operands))
    if ffi_call is not None:
        return ffi_call
    try:
        name = key_for(op, callee, operands)
    except ArgumentError:
        name = ""
    with _tables_lock:
        # A function that was traced again, after settings changed, has the same name.
        if not name or name.encode() in _by_name:
            # A number alone would name another function in a process that finds it in a cache.
            name = f"{op.name}#{_PROCESS}-{next(_numbers)}"
        return _register(name, op, callee.execute_into, operands)


def _register(name: str, op: Op, execute_into: ExecuteInto, operands: Specs) -> FfiCall:
    _pids.add(os.getpid())
    key = op, execute_into, operands
    ffi_call = _by_op.get(key) or _by_op.setdefault(key, FfiCall(op, execute_into, operands, name))
    return _by_name.setdefault(name.encode(), ffi_call)


def lookup(name: bytes) -> FfiCall:
    """Return the FfiCall that a compiled program calls by this name; rebuild it if need be."""
    try:
        return _by_name[name]
    except KeyError:
        pass
    if not name.startswith(b"["):
        raise ArgumentError(
            f"the program calls {name.decode()}, a function of another process, or one that is "
            "gone. Run it where it was compiled, as long as the function is there."
        )
    rebuilt = op_for(name.decode())
    with _tables_lock:
        return _register(name.decode(), *rebuilt)
