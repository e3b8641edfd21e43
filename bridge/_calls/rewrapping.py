"""How often one function was wrapped at one place, as in a loop, where each wrapper is compiled."""

import dataclasses
import inspect
import threading
import warnings
import weakref
from collections.abc import MutableMapping
from typing import Any

from bridge._core import import_path

_MOST = 16
_PACKAGE = __name__.partition(".")[0]
_lock = threading.Lock()

Line = tuple[str, int]


@dataclasses.dataclass(eq=False)
class WrapperCounter:
    """One wrapper of a function or module, as far as others of the same are counted.

    Attributes:
        name: Of the function.
        crossing: What it was wrapped by, such as `jax2torch`.
        counts: How many wrappers of its code were traced, by the line they were made in.
        line: Where this one was made.
        traced: Whether it has been traced, and counted.
    """

    name: str
    crossing: str
    counts: dict[tuple[str, Line], int]
    line: Line
    traced: bool = False

    def record_trace(self) -> None:
        """Count the wrapper when it is traced for the first time; warns once there are many."""
        if self.traced:
            return
        self.traced = True
        with _lock:
            count = self.counts[self.crossing, self.line] = 1 + self.counts.get(
                (self.crossing, self.line), 0
            )
        if count == _MOST + 1:
            warnings.warn_explicit(
                f"{self.crossing} has wrapped {self.name} {count} times in this line, and each of "
                "these wrappers was traced and compiled anew, which is slow. Wrap it once, outside "
                "of the loop or function that is run again and again, and pass what varies as "
                "arguments.",
                UserWarning,
                *self.line,
            )


def count_wrapper(fn: Any, crossing: str) -> WrapperCounter | None:
    """What counts a new wrapper of `fn`; `None` for what has no code of its own."""
    try:
        counts = _counts.setdefault(_code(fn), {})
    except TypeError:  # it cannot be hashed, or referred to weakly
        return None
    return WrapperCounter(import_path.function_name(fn), crossing, counts, _users_line())


# By the code of functions, which a lambda in a loop has in common with those before it; modules are
# themselves. Weak, so that what was made by the user's program goes with it.
_counts: MutableMapping[Any, dict[tuple[str, Line], int]] = weakref.WeakKeyDictionary()


def _code(fn: Any) -> Any:
    """The code of what `fn` calls in the end, or `fn` itself."""
    while hasattr(fn, "func") and callable(fn.func):  # partial functions
        fn = fn.func
    fn = inspect.unwrap(fn)
    return getattr(getattr(fn, "__func__", fn), "__code__", fn)


def _users_line() -> Line:
    """The innermost line of code that is not ours."""
    frame = inspect.currentframe()
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame else ("<unknown>", 0)


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
