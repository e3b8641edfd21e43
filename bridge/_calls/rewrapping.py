"""A count of how often one line wraps the same function, and a warning when it is often.

A loop that wraps a function in each iteration compiles it in each iteration.
"""

import dataclasses
import inspect
import threading
import warnings
import weakref
from collections.abc import MutableMapping
from typing import Any

from bridge._core import import_path
from bridge._core.tracebacks import is_skipped

_MOST = 16
_lock = threading.Lock()

Line = tuple[str, int]


@dataclasses.dataclass(eq=False)
class WrapperCounter:
    """Counts one wrapper of a function or module, together with others of the same.

    Attributes:
        name: The name of the function.
        wrapper_name: The name of the wrapper, such as `jax2torch`.
        counts: How many wrappers of the same code were traced, by name and line.
        line: The line where this wrapper was made.
        traced: True once it has been traced, and counted.
    """

    name: str
    wrapper_name: str
    counts: dict[tuple[str, Line], int]
    line: Line
    traced: bool = False

    def record_trace(self) -> None:
        """Count the wrapper when it is traced for the first time; warn once there are many."""
        if self.traced:
            return
        self.traced = True
        with _lock:
            count = self.counts[self.wrapper_name, self.line] = 1 + self.counts.get(
                (self.wrapper_name, self.line), 0
            )
        if count == _MOST + 1:
            warnings.warn_explicit(
                f"{self.wrapper_name} has wrapped {self.name} {count} times in this line, and each "
                "of these wrappers was traced and compiled, which is slow. Wrap it once, outside "
                "of the loop or function that is run again and again, and pass what varies as "
                "arguments.",
                UserWarning,
                *self.line,
            )


def make_counter(fn: Any, wrapper_name: str) -> WrapperCounter | None:
    """Make the counter of a new wrapper of `fn`; None if `fn` cannot be a key."""
    try:
        counts = _counts.setdefault(_code(fn), {})
    except TypeError:  # it cannot be hashed, or referred to weakly
        return None
    return WrapperCounter(import_path.function_name(fn), wrapper_name, counts, _users_line())


# The keys are code objects, which all lambdas of one line in a loop share, and modules. They are
# weak, so that the user's functions and modules can be freed.
_counts: MutableMapping[Any, dict[tuple[str, Line], int]] = weakref.WeakKeyDictionary()


def _code(fn: Any) -> Any:
    """Return the code of the function that `fn` wraps, or else `fn` itself."""
    while hasattr(fn, "func") and callable(fn.func):  # partial functions
        fn = fn.func
    fn = inspect.unwrap(fn)
    return getattr(getattr(fn, "__func__", fn), "__code__", fn)


def _users_line() -> Line:
    """Return file and number of the innermost line of the user."""
    frame = inspect.currentframe()
    while frame is not None and is_skipped(frame):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ("<unknown>", 0)
