"""The backends of JAX, which it is not imported for."""

import sys


def has_backends() -> bool:
    """Return True if JAX has started a backend; False if it is not known by this name."""
    return bool(getattr(sys.modules.get("jax._src.xla_bridge"), "_backends", None))
