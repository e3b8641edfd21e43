"""Which way calls take out of compiled programs; chosen once."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from bridge._errors import OptionError

_ROOMS = {"ffi": "_ffi", "callback": "_callback"}


def _choose() -> Callable[..., Any]:
    asked = os.environ.get("GRADBRIDGE_JAX_TRANSPORT", "ffi")
    if asked not in _ROOMS:
        raise OptionError(f"GRADBRIDGE_JAX_TRANSPORT={asked!r} is neither {' nor '.join(_ROOMS)}.")
    return importlib.import_module(f"bridge._targets.jax.{_ROOMS[asked]}").lower


lower = _choose()
