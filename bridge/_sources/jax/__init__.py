"""JAX functions as Ops, transformed by JAX."""

from bridge._sources.jax.source import SOURCE as SOURCE
