"""Private names of JAX about memory that crosses by DLPack."""

from typing import Any

try:  # a third of the cost of __dlpack__, which looks up device and stream each time
    from jaxlib._jax import buffer_to_dlpack_managed_tensor as dlpack_capsule
except ImportError:

    def dlpack_capsule(x: Any) -> Any:
        """Return a DLPack capsule of the memory of `x`."""
        return x.__dlpack__()


__all__ = ["dlpack_capsule"]
