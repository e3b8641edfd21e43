"""Names that JAX does not promise to keep, each with a fallback."""

from collections.abc import Hashable
from typing import Any

import jax
from jax.extend.core import Jaxpr

from bridge._sources.jax.jaxpr import inner_jaxprs

CONFIG: Any = jax.config  # Any, because it does not declare its options as attributes
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


def has_unsupported_tangents(jaxpr: Jaxpr) -> bool:
    """Return True if `jaxpr` raises when run, because a `jax.custom_vjp` in it has no tangents."""
    return any(
        # The placeholder that JAX puts into a jaxpr for the tangents of a `jax.custom_vjp`.
        eqn.primitive.name == "custom_lin" or any(map(has_unsupported_tangents, inner_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def depends_on_arguments(jaxpr: Jaxpr) -> bool:
    """Return True if a result of `jaxpr` depends on an argument; looks into loops and branches."""
    return any(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])


try:
    from jax.interpreters.partial_eval import dce_jaxpr
except ImportError:

    def dce_jaxpr(jaxpr: Jaxpr, used_outputs: list[bool]) -> tuple[Jaxpr, list[bool]]:
        """Find which arguments are used; loops and branches count as using all of theirs."""
        used = {id(var) for var, use in zip(jaxpr.outvars, used_outputs, strict=True) if use}
        for eqn in reversed(jaxpr.eqns):
            if used & {id(var) for var in eqn.outvars}:
                used |= {id(var) for var in eqn.invars}
        return jaxpr, [id(var) in used for var in jaxpr.invars]
