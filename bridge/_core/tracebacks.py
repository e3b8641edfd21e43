"""Tracebacks as the user wrote the program: without the frames of this package.

NOTE [which frames are left out]
An exception passes some ten frames of ours and as many of the frameworks between the call of a user
and the function of the user that it comes from. Where it leaves us, in a function that a user or a
framework has called, all frames are taken out from the first of ours to the last, or to the one
that calls the user's function. The first stays, to tell that it was a bridged call. Type, text and
notes are not touched. With `GRADBRIDGE_TRACEBACK=full` in the environment, all frames stay.
"""

import functools
import inspect
import os
import types
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep  # of the package
FRAMEWORKS: set[str] = set()  # packages whose frames before the user's function are left out
_ENTRANCES: set[types.CodeType] = set()
_EXITS: set[types.CodeType] = set()


def mark_entry_point(fn: F) -> F:
    """Mark a function that a user or a framework calls, and return it."""
    _ENTRANCES.add(fn.__code__)
    return fn


def mark_user_call(fn: F) -> F:
    """Mark a function that calls the function of the user, and return it."""
    _EXITS.add(fn.__code__)
    return fn


def shortens_tracebacks(fn: F) -> F:
    """Wrap a function that a framework calls, so that its exceptions have short tracebacks."""

    @functools.wraps(fn)
    def bridged(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            shorten_traceback(error)
            raise

    mark_entry_point(bridged)
    return bridged  # pyright: ignore[reportReturnType]


def shorten_traceback(error: BaseException) -> None:
    """Remove our frames from the traceback of `error`: NOTE [which frames are left out].

    Call it where the error is caught, before it is raised again.
    """
    if os.environ.get("GRADBRIDGE_TRACEBACK") == "full":
        return
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = _without_ours(link.__traceback__)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def user_stacklevel() -> int:
    """Return the `stacklevel` that makes a warning of its caller point at the code of the user."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and is_skipped(frame):
        level, frame = level + 1, frame.f_back
    return max(level, 1)


def is_skipped(frame: types.FrameType) -> bool:
    """Return True for a frame of this package or of a framework."""
    return _is_ours(frame) or _is_framework(frame)


def _without_ours(traceback: types.TracebackType | None) -> types.TracebackType | None:
    steps: list[types.TracebackType] = []
    while traceback is not None:
        steps.append(traceback)
        traceback = traceback.tb_next
    ours = [i for i, step in enumerate(steps) if _is_ours(step.tb_frame)]
    exits = [i for i in ours if steps[i].tb_frame.f_code in _EXITS]
    within = [i for i in ours if steps[i].tb_frame.f_code not in _ENTRANCES]
    last = (exits or within or ours[:1] or [-1])[-1]
    remaining = [i for i in range(last + 1, len(steps)) if i not in within]
    remaining = remaining[
        next((k for k, i in enumerate(remaining) if not _is_framework(steps[i].tb_frame)), 0) :
    ]
    if ours and ours[0] <= last:
        remaining = [*range(ours[0] + 1), *remaining]
    rebuilt: types.TracebackType | None = None
    for i in reversed(remaining):
        step = steps[i]
        rebuilt = types.TracebackType(rebuilt, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return rebuilt


def _is_framework(frame: types.FrameType) -> bool:
    return frame.f_globals.get("__name__", "").partition(".")[0] in FRAMEWORKS


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_FOLDER)
