"""The transport by which compiled programs call Ops, chosen once for the process."""

import importlib
import os
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError

_MODULES = ("ffi", "callback")


def _choose() -> Callable[..., Any]:
    name = os.environ.get("GRADBRIDGE_JAX_TRANSPORT", "ffi")
    if name not in _MODULES:
        raise OptionError(f"GRADBRIDGE_JAX_TRANSPORT={name!r} is neither {' nor '.join(_MODULES)}.")
    return importlib.import_module(f"bridge._targets.jax.{name}").lower


lower = _choose()
