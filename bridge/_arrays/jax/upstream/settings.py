"""The settings of JAX that a trace depends on, as far as they have names."""

from collections.abc import Hashable
from typing import Any

import jax

from bridge._arrays.jax.upstream.modes import CONFIG

# The settings that a trace depends on, as far as they have a public context manager.
SETTINGS = tuple(
    name
    for name in (
        *("enable_x64", "default_matmul_precision", "default_prng_impl", "threefry_partitionable"),
        *("numpy_dtype_promotion", "numpy_rank_promotion", "softmax_custom_jvp"),
        *("allow_f16_reductions", "enable_custom_prng", "legacy_prng_key", "debug_key_reuse"),
    )
    if hasattr(jax, name) and hasattr(CONFIG, f"jax_{name}")
)


def read_setting(name: str) -> Any:
    """Return the current value of a setting."""
    return getattr(CONFIG, f"jax_{name}")


try:  # all that `jax.jit` looks at, in a tenth of a microsecond
    from jax._src.config import trace_context as trace_context
except ImportError:

    def trace_context() -> tuple[Hashable, ...]:
        """Return the settings that a trace depends on, as far as public names tell them."""
        return (jax.sharding.get_abstract_mesh(), *map(read_setting, SETTINGS))
