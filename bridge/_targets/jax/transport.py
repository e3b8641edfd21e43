"""Which way calls take out of compiled programs; chosen once."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError

_MODULES = ("ffi", "callback")


def _choose() -> Callable[..., Any]:
    asked = os.environ.get("GRADBRIDGE_JAX_TRANSPORT", "ffi")
    if asked not in _MODULES:
        raise OptionError(
            f"GRADBRIDGE_JAX_TRANSPORT={asked!r} is neither {' nor '.join(_MODULES)}."
        )
    return importlib.import_module(f"bridge._targets.jax.{asked}").lower


lower = _choose()
