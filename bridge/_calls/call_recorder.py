"""A record of the bridged functions that a function calls while it is traced.

NOTE [a call that is watched]
Plain calls are to cost nothing for this. So nothing in them asks whether somebody watches: while a
function is explained, the class has another `__call__`, which notes calls of the thread that
explains, and hands on all calls.
"""

import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Generator
from typing import Any

_Note = Callable[[Any, Any, Any], None]
_note: contextvars.ContextVar[_Note | None] = contextvars.ContextVar("note", default=None)
_lock = threading.Lock()


@dataclasses.dataclass
class _Watched:
    """Count of the watchers of a class, and its original `__call__`."""

    count: int = 0
    plain_call: Any = None


_watched = _Watched()


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedCall:
    """A call of a bridged function, with specs in the places of arrays, which may have no values.

    Attributes:
        explainer: What explains calls of the function.
        leaves: The leaves of its arguments.
        structure: The structure of these.
    """

    explainer: Any
    leaves: list[Any]
    structure: Any


@contextlib.contextmanager
def recorded_calls(cls: type) -> Generator[list[RecordedCall]]:
    """Record the calls of functions of `cls` in this thread, each once, apart from calls in these.

    The list is complete at the end.
    """
    calls: dict[Any, RecordedCall] = {}

    def note(function: Any, args: Any, kwargs: Any) -> None:
        call = _record(function, args, kwargs)
        calls.setdefault((id(function), call.structure, *map(repr, call.leaves)), call)

    recorded: list[RecordedCall] = []
    token = _note.set(note)
    try:
        with _watching(cls):
            yield recorded
    finally:
        _note.reset(token)
        recorded.extend(calls.values())


def _record(function: Any, args: Any, kwargs: Any) -> RecordedCall:
    """Return a call without arrays, which may belong to a trace."""
    explainer = function.explainer()
    leaves, structure = explainer.flatten(args, kwargs)
    return RecordedCall(explainer, [*map(explainer.describe_argument, leaves)], structure)


@contextlib.contextmanager
def _watching(cls: Any) -> Generator[None]:
    """Let `cls` note its calls: NOTE [a call that is watched]."""
    with _lock:
        if not _watched.count:
            _watched.plain_call = cls.__call__
            cls.__call__ = _noting(cls.__call__)
        _watched.count += 1
    try:
        yield
    finally:
        with _lock:
            _watched.count -= 1
            if not _watched.count:
                cls.__call__ = _watched.plain_call


def _noting(plain_call: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        note = _note.get()
        if note is None:
            return plain_call(self, *args, **kwargs)
        note(self, args, kwargs)
        token = _note.set(None)  # calls in this call are its own
        try:
            return plain_call(self, *args, **kwargs)
        finally:
            _note.reset(token)

    return call
