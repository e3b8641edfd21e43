"""Upstream names of JAX that are not promised, each with a fallback."""

from collections.abc import Hashable
from typing import Any

import jax

CONFIG: Any = jax.config  # its options are attributes that it does not declare
# Settings with a public context manager that a trace depends on.
SETTINGS = tuple(
    name
    for name in (
        *("enable_x64", "default_matmul_precision", "default_prng_impl", "threefry_partitionable"),
        *("numpy_dtype_promotion", "numpy_rank_promotion", "softmax_custom_jvp"),
        *("allow_f16_reductions", "enable_custom_prng", "legacy_prng_key", "debug_key_reuse"),
    )
    if hasattr(jax, name) and hasattr(CONFIG, f"jax_{name}")
)


def setting(name: str) -> Any:
    """The value of a setting, here and now."""
    return getattr(CONFIG, f"jax_{name}")


try:  # all that `jax.jit` looks at, in a tenth of a microsecond
    from jax._src.config import trace_context as trace_context
except ImportError:

    def trace_context() -> tuple[Hashable, ...]:
        """What is known of the settings that a trace depends on."""
        return (jax.sharding.get_abstract_mesh(), *map(setting, SETTINGS))
