"""What a call site runs, once XLA has buffers for it, and how XLA finds it.

NOTE [the end of the process]
XLA runs calls on threads of its own. One that wants to run Python while the interpreter shuts
down ends the process by a signal: so at exit a small program on each device is waited for, which
comes after all others, and then the calls that still run.

NOTE [who keeps a task alive]
Tables of tasks hold them weakly. A compiled program keeps those that it calls, and so do traces,
whose equations hold what tasks are made of. When the last of both is gone, so is the user's
function.
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

from bridge._core.array_protocols import DeviceStream
from bridge._core.errors import ArgumentError
from bridge._core.op import Op, Specs
from bridge._core.protocols import ExecuteInto
from bridge._targets.jax.calls import CallSite
from bridge._targets.jax.internals import refusing_jax
from bridge._targets.jax.program_keys import key_for, op_for

_PROCESS = uuid.uuid4().hex[:12]
_numbers = itertools.count()
_busy: set[int] = set()
_used_by: set[int] = set()


class FfiCall:
    """An Op with its results already allocated, named by a string in compiled programs."""

    def __init__(self, op: Op, fill: ExecuteInto, operands: Specs, name: str) -> None:
        self.op, self.operands, self.results = op, operands, op.output_specs()
        self.name = name
        self._fill, self._guard = fill, refusing_jax(op.name)
        self.rows: Any = None  # how a transport makes arrays of its buffers

    def __call__(
        self, operands: Sequence[Any], results: Sequence[Any], stream: DeviceStream | None = None
    ) -> None:
        """Evaluate the Op on buffers."""
        thread = threading.get_ident()
        _busy.add(thread)
        try:
            with self._guard():
                self._fill(self.op, operands, results, stream)
        finally:
            _busy.discard(thread)


@atexit.register
def _drain() -> None:
    """Wait for calls: NOTE [the end of the process]."""
    if _used_by != {os.getpid()}:  # JAX never ran here; a forked child has none of its threads
        return
    for device in jax.local_devices():
        jax.block_until_ready(jax.device_put(0, device) + 1)
    while _busy:
        time.sleep(0.001)


_named: weakref.WeakValueDictionary[bytes, FfiCall] = weakref.WeakValueDictionary()
_made: weakref.WeakValueDictionary[Any, FfiCall] = weakref.WeakValueDictionary()


_entering = threading.Lock()


def ffi_call(op: Op, site: CallSite, operands: Specs) -> FfiCall:
    """The task of an Op, the same for as long as somebody has it."""
    made = _made.get((op, site.execute_into, operands))
    if made is not None:
        return made
    try:
        name = key_for(op, site, operands)
    except ArgumentError:
        name = ""
    with _entering:
        # A function that was traced again, its settings changed, is another of the same name.
        if not name or name.encode() in _named:
            # Unlike a number, it means nothing in another process, which may find it in a cache.
            name = f"{op.name}#{_PROCESS}-{next(_numbers)}"
        return _register(name, op, site.execute_into, operands)


def _register(name: str, op: Op, fill: ExecuteInto, operands: Specs) -> FfiCall:
    _used_by.add(os.getpid())
    key = op, fill, operands
    made = _made.get(key) or _made.setdefault(key, FfiCall(op, fill, operands, name))
    return _named.setdefault(name.encode(), made)


def lookup(name: bytes) -> FfiCall:
    """The task that a compiled program calls by this name."""
    try:
        return _named[name]
    except KeyError:
        pass
    if not name.startswith(b"["):
        raise ArgumentError(
            f"the program calls {name.decode()}, a function of another process, or one that is "
            "gone. Run it where it was compiled, as long as the function is there."
        )
    again = op_for(name.decode())
    with _entering:
        return _register(name.decode(), *again)
