"""Upstream names of JAX that are not promised, each with a fallback."""

from collections.abc import Hashable
from typing import Any

import jax
from jax.extend.core import Jaxpr

from bridge._sources.jax.jaxpr import inner_jaxprs

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


def read_setting(name: str) -> Any:
    """The value of a setting, here and now."""
    return getattr(CONFIG, f"jax_{name}")


try:  # all that `jax.jit` looks at, in a tenth of a microsecond
    from jax._src.config import trace_context as trace_context
except ImportError:

    def trace_context() -> tuple[Hashable, ...]:
        """What is known of the settings that a trace depends on."""
        return (jax.sharding.get_abstract_mesh(), *map(read_setting, SETTINGS))


def lacks_tangents(jaxpr: Jaxpr) -> bool:
    """Whether tangents in `jaxpr` stand for those of a `jax.custom_vjp`, and raise when it runs."""
    return any(
        equation.primitive.name == "custom_lin" or any(map(lacks_tangents, inner_jaxprs(equation)))
        for equation in jaxpr.eqns
    )


def has_impure_effects(jaxpr: Jaxpr) -> bool:
    """Whether a result of `jaxpr` depends on an argument; looks into loops and branches."""
    return any(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])


try:
    from jax.interpreters.partial_eval import dce_jaxpr
except ImportError:

    def dce_jaxpr(jaxpr: Jaxpr, used_outputs: list[bool]) -> tuple[Jaxpr, list[bool]]:
        """Which arguments are used, where all that loops and branches take is used by them."""
        used = {id(var) for var, use in zip(jaxpr.outvars, used_outputs, strict=True) if use}
        for equation in reversed(jaxpr.eqns):
            if used & {id(var) for var in equation.outvars}:
                used |= {id(var) for var in equation.invars}
        return jaxpr, [id(var) in used for var in jaxpr.invars]
