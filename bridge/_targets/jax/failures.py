"""Errors of functions that XLA calls, as they were raised.

NOTE [errors keep their class]
XLA makes of an error a text, and of the text an error of its own. Where a call is compiled alone,
outside of `jax.jit`, and XLA has made it on the thread that waits for it, the error is at hand.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax


class _Failure(threading.local):
    """The error of a call on this thread, as long as somebody asks for it."""

    asked = False
    error: BaseException | None = None


_failure = _Failure()


def record(error: BaseException) -> None:
    """Keep an error for who waits for the call."""
    if _failure.asked:
        _failure.error = error


def raise_original_errors(call: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """The results of a compiled call, whose errors are raised as they were."""
    _failure.asked = True
    try:
        return call(*operands)
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # the latter from the second call on
        own = _failure.error
        if own is None or type(own).__name__ not in str(error):
            raise
        raise own from None
    finally:
        _failure.asked, _failure.error = False, None
