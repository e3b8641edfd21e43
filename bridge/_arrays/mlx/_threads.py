"""Threads of Python for what threads of others ask of MLX.

NOTE [threads of others]
MLX keeps objects of Python for each thread that asks for its key of random numbers, or compiles.
They go with the thread; those of XLA go after Python has gone, which aborts the process. So what
XLA asks for is done in threads of our own, which never end: as many as there are calls at once,
since one may wait for another. That takes 15 us more.
"""

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

_idle: list[queue.SimpleQueue[Any]] = []
os.register_at_fork(after_in_child=_idle.clear)


def in_own_thread(run: Callable[[], Any]) -> Any:
    """The result of `run`, or its error: NOTE [threads of others]."""
    return run() if threading.current_thread() is threading.main_thread() else elsewhere(run)


def elsewhere(run: Callable[[], Any]) -> Any:
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
