"""Where MLX computes: streams that serve every thread, in a forked child as well.

NOTE [one stream for all threads]
A stream of MLX belongs to the thread that made it: an array that one thread has put off cannot be
evaluated by another, as torch's backward pass and XLA would have to, and each thread that computes
gets a thread of the system that is never given back. One kind of stream serves all threads, if
they take turns.

NOTE [streams in a forked child]
The thread behind a stream is not in a forked child, which would wait for it forever. It gets new
streams when it first computes.

NOTE [calls out of a turn]
A function of MLX that calls another framework may wait for what waits for its turn in another
thread, as XLA does that calls a function of MLX itself. So nobody keeps a turn over such a call.
"""

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx


@dataclasses.dataclass
class _Streams:
    """Those of a process: NOTE [one stream for all threads].

    Attributes:
        lock: Held while a thread computes.
        by_device: A stream for each kind of device.
        forked: Whether the process was forked off and has not computed yet.
    """

    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)
    by_device: dict[mx.DeviceType, Any] = dataclasses.field(default_factory=dict)
    forked: bool = False

    def stream_for(self, kind: mx.DeviceType) -> Any:
        """The stream of a kind of device, made when it is first asked for."""
        if kind not in self.by_device:
            self.by_device.setdefault(kind, mx.new_thread_unsafe_stream(kind))
        return self.by_device[kind]

    def renew(self) -> None:
        """Forget what was inherited; what holds the lock is not in the child either."""
        self.lock, self.by_device, self.forked = threading.RLock(), {}, True


_streams = _Streams()
os.register_at_fork(after_in_child=_streams.renew)


def renew_after_fork() -> None:
    """Make streams in a child: NOTE [streams in a forked child]."""
    if _streams.forked:
        _streams.forked = False
        mx.set_default_stream(mx.new_stream(mx.default_device()))


def build_stream(*, wide: bool = False) -> Any:
    """Operations in here go to that stream too, but no one else waits: nothing is evaluated."""
    renew_after_fork()
    kind = mx.DeviceType.cpu if wide else mx.default_device().type
    return mx.stream(_streams.stream_for(kind))


class _Turns(threading.local):
    """Those that a thread has taken and not given back yet."""

    def __init__(self) -> None:
        self.taken: list[Any] = []


_turns = _Turns()


class evaluation_lock:  # noqa: N801 - used as a function; a generator would cost as much again
    """Others do not evaluate what is made in `compute_stream` meanwhile."""

    __slots__ = ()

    def __enter__(self) -> None:
        mine = _streams.lock
        mine.acquire()
        _turns.taken.append(mine)

    def __exit__(self, *_: object) -> None:
        _turns.taken.pop().release()


def release_lock() -> contextlib.AbstractContextManager[None]:
    """Others may take their turn: NOTE [calls out of a turn]."""
    return _release_lock() if _turns.taken else contextlib.nullcontext()


@contextlib.contextmanager
def _release_lock() -> Generator[None]:
    taken, _turns.taken = _turns.taken, []
    for mine in taken:
        mine.release()
    try:
        yield
    finally:
        for mine in taken:
            mine.acquire()
        _turns.taken = taken


def releases_lock(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, in which others may take their turn."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        with release_lock():
            return fn(*args)

    return call


class compute_stream:  # noqa: N801 - as above
    """Operations in here go to a stream that any thread may evaluate; others wait.

    Args:
        wide: Whether there are float64 arrays, which MLX has on the CPU alone.
    """

    __slots__ = ("_stream", "_turn", "_wide")

    def __init__(self, *, wide: bool = False) -> None:
        self._wide = wide

    def __enter__(self) -> None:
        self._stream, self._turn = build_stream(wide=self._wide), evaluation_lock()
        self._turn.__enter__()
        self._stream.__enter__()

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)
        self._turn.__exit__()
