"""The log-cosh loss in JAX."""

import math

import jax
import jax.numpy as jnp


@jax.custom_jvp
def log_cosh(x: jax.Array) -> jax.Array:
    """Return `log(cosh(x))` of each element; `cosh` itself would overflow."""
    return jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - math.log(2)


@log_cosh.defjvp
def _tangent(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return log_cosh(*primals), tangents[0] * jnp.tanh(primals[0])
