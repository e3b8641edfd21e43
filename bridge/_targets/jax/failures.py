"""The original errors of functions that XLA calls.

NOTE [errors keep their class]
XLA turns an error into a text, and raises an error of its own with that text. If a call is compiled
alone, outside of `jax.jit`, and XLA made it on the thread that waits for it, the original is known
and raised.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax


class _Failure(threading.local):
    """The error of a call on this thread, recorded while a caller waits for it."""

    is_awaited = False
    error: BaseException | None = None


_failure = _Failure()


def record(error: BaseException) -> None:
    """Record the error of a call for the caller that waits on this thread."""
    if _failure.is_awaited:
        _failure.error = error


def raise_original_errors(call: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """Run a compiled call; raise the original error of the function, if there is one."""
    _failure.is_awaited = True
    try:
        return call(*operands)
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter from the second call on
        original = _failure.error
        if original is None or type(original).__name__ not in str(error):
            raise
        raise original from None
    finally:
        _failure.is_awaited, _failure.error = False, None
