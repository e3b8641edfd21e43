"""Threads of Python for what threads of others ask of MLX.

NOTE [threads of others]
MLX keeps objects of Python for each thread that asks for its key of random numbers, or compiles.
They go with the thread; those of XLA go after Python has gone, which aborts the process. So what
XLA asks for is done in threads of our own, which never end: as many as there are calls at once,
since one may wait for another. That takes 15 us more.

NOTE [threads that have ended]
The key of a thread of the user goes when the system takes the thread down, a moment after Python
has let go of it, and needs the interpreter for that: where this is shut down meanwhile, the process
aborts. So the end of the process waits for threads that have computed and ended, at most a second.
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
    """The result of `run`, or its error: NOTE [threads of others]."""
    return run() if threading.current_thread() is threading.main_thread() else on_other_thread(run)


def on_other_thread(run: Callable[[], Any]) -> Any:
    """The result of `run` in a thread of ours, or its error."""
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
    while True:
        run, done = tasks.get()
        try:
            done.put((run(), None))
        except BaseException as error:  # noqa: BLE001 - raised by who asked
            done.put((None, error))
        del run, done


_computed: dict[int, threading.Thread] = {}  # by the number that the system has for it
os.register_at_fork(after_in_child=_computed.clear)
_MAIN = threading.main_thread().ident
_TASKS = pathlib.Path("/proc/self/task")
_LONGEST, _PAUSE = 1.0, 0.005


def note_thread() -> None:
    """Have the end of the process wait for this thread: NOTE [threads that have ended]."""
    if threading.get_ident() != _MAIN:
        _computed.setdefault(threading.get_native_id(), threading.current_thread())


@atexit.register
def _await_ended() -> None:
    ended = [number for number, thread in _computed.items() if not thread.is_alive()]
    until = time.monotonic() + _LONGEST
    while any(map(_exists, ended)) and time.monotonic() < until:
        time.sleep(_PAUSE)
    if ended and not _TASKS.exists():  # nothing tells
        time.sleep(10 * _PAUSE)


def _exists(number: int) -> bool:
    return (_TASKS / str(number)).exists()
