"""Threads of Python on which MLX runs, so that no thread aborts the process when it ends.

NOTE [threads of others]
MLX keeps Python objects for each thread that uses its random key or compiles, and frees them when
the thread ends. The threads of XLA end after the interpreter, so that freeing them aborts the
process. Calls from XLA therefore run on threads of our own, which never end. There are as many as
there are calls at the same time, since one call may wait for another. This costs 15 us a call.

NOTE [threads that have ended]
The random key of a user's thread is freed when the system removes the thread, a moment after Python
has forgotten it. That needs the interpreter: if it has shut down by then, the process aborts. The
exit of the process therefore waits for threads that used MLX and have ended, at most a second.
"""

import atexit
import os
import pathlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

_idle: list[queue.SimpleQueue[Any]] = []
os.register_at_fork(after_in_child=_idle.clear)


def on_python_thread(run: Callable[[], Any]) -> Any:
    """Return the result of `run`, on a thread made by Python: NOTE [threads of others]."""
    return run() if threading.current_thread() is threading.main_thread() else on_other_thread(run)


def on_other_thread(run: Callable[[], Any]) -> Any:
    """Return the result of `run`, or raise its error, from an idle thread of our own."""
    try:
        tasks = _idle.pop()
    except IndexError:
        tasks = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), daemon=True, name="bridge-mlx").start()
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    tasks.put((run, done))
    result, error = done.get()
    _idle.append(tasks)
    if error is not None:
        raise error
    return result


def _serve(tasks: queue.SimpleQueue[Any]) -> None:
    """Run tasks forever, and hand each result or error to its caller."""
    while True:
        run, done = tasks.get()
        try:
            done.put((run(), None))
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            done.put((None, error))
        del run, done  # an idle thread would keep them alive


_computed: dict[int, threading.Thread] = {}  # by native id
os.register_at_fork(after_in_child=_computed.clear)
_MAIN = threading.main_thread().ident
_TASKS = pathlib.Path("/proc/self/task")
_LONGEST_WAIT, _PAUSE = 1.0, 0.005  # seconds


def note_thread() -> None:
    """Make the exit of the process wait for this thread: NOTE [threads that have ended]."""
    if threading.get_ident() != _MAIN:
        _computed.setdefault(threading.get_native_id(), threading.current_thread())


@atexit.register
def _await_ended_threads() -> None:
    ended = [native_id for native_id, thread in _computed.items() if not thread.is_alive()]
    deadline = time.monotonic() + _LONGEST_WAIT
    while any(map(_exists, ended)) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    if ended and not _TASKS.exists():  # macOS does not list threads there
        time.sleep(10 * _PAUSE)


def _exists(native_id: int) -> bool:
    return (_TASKS / str(native_id)).exists()
