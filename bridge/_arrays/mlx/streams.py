"""The streams on which MLX computes for every thread, and the lock that evaluation needs.

NOTE [one stream for all threads]
An ordinary stream of MLX belongs to the thread that made it. Another thread cannot evaluate its
lazy arrays, as torch's backward pass and XLA would have to, and each thread that computes gets a
system thread that is never freed. MLX has one kind of stream that all threads can use, if only one
of them evaluates at a time. So whoever evaluates holds a lock.

NOTE [streams in a forked child]
The system thread behind a stream does not exist in a forked child, which would wait for it forever.
The child gets new streams when it first computes.

NOTE [calls to other frameworks]
A function of MLX that calls another framework may wait for a thread that waits for the lock: XLA
does so when it calls a function of MLX in turn. So the lock is released during such a call.
"""

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._core.forks import lost_threads


@dataclasses.dataclass
class _Streams:
    """The streams of the process: NOTE [one stream for all threads].

    Attributes:
        lock: What a thread holds while it evaluates.
        by_device: One stream for each kind of device.
        forked: True if the process is a forked child that has not computed yet.
    """

    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)
    by_device: dict[mx.DeviceType, Any] = dataclasses.field(default_factory=dict)
    forked: bool = dataclasses.field(default_factory=lambda: lost_threads("mlx"))

    def stream_for(self, kind: mx.DeviceType) -> Any:
        """Return the stream for a kind of device; make it at the first use."""
        stream = self.by_device.get(kind)
        return stream or self.by_device.setdefault(kind, mx.new_thread_unsafe_stream(kind))

    def renew(self) -> None:
        """Forget what a child inherited: a thread that held the lock is not in the child."""
        self.lock, self.by_device, self.forked = threading.RLock(), {}, True


_streams = _Streams()
os.register_at_fork(after_in_child=_streams.renew)


def renew_after_fork() -> None:
    """Make a new default stream in a forked child: NOTE [streams in a forked child]."""
    if _streams.forked:
        _streams.forked = False
        mx.set_default_stream(mx.new_stream(mx.default_device()))


def lazy_stream(*, has_float64: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Queue operations on the shared stream without the lock: nothing may be evaluated inside.

    Args:
        has_float64: True if there are float64 arrays, which MLX supports on the CPU only.
    """
    renew_after_fork()
    kind = mx.DeviceType.cpu if has_float64 else mx.default_device().type
    return mx.stream(_streams.stream_for(kind))


class _ThreadLocks(threading.local):
    """The locks that a thread has acquired and not released yet, one for each nested use."""

    def __init__(self) -> None:
        self.acquired: list[Any] = []


_thread_locks = _ThreadLocks()


class evaluation_lock:  # noqa: N801 - used as a function; a generator costs twice as much
    """Hold the lock, so that others do not evaluate: NOTE [one stream for all threads]."""

    __slots__ = ()

    def __enter__(self) -> None:
        lock = _streams.lock
        lock.acquire()
        _thread_locks.acquired.append(lock)

    def __exit__(self, *_: object) -> None:
        _thread_locks.acquired.pop().release()


def release_lock() -> contextlib.AbstractContextManager[None]:
    """Let other threads evaluate inside: NOTE [calls to other frameworks]."""
    return _release_lock() if _thread_locks.acquired else contextlib.nullcontext()


@contextlib.contextmanager
def _release_lock() -> Generator[None]:
    acquired, _thread_locks.acquired = _thread_locks.acquired, []
    for lock in acquired:
        lock.release()
    try:
        yield
    finally:
        for lock in acquired:
            lock.acquire()
        _thread_locks.acquired = acquired


def releases_lock(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` such that it runs without the lock: NOTE [calls to other frameworks]."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        with release_lock():
            return fn(*args)

    return call


class compute_stream:  # noqa: N801 - as above
    """Queue operations on a stream that any thread can evaluate, and hold the lock.

    Args:
        has_float64: True if there are float64 arrays, which MLX supports on the CPU only.
    """

    __slots__ = ("_has_float64", "_lock", "_stream")

    def __init__(self, *, has_float64: bool = False) -> None:
        self._has_float64 = has_float64

    def __enter__(self) -> None:
        self._stream, self._lock = lazy_stream(has_float64=self._has_float64), evaluation_lock()
        self._lock.__enter__()
        self._stream.__enter__()

    def __exit__(self, *_: object) -> None:
        self._stream.__exit__(None, None, None)
        self._lock.__exit__()
