"""Functions of JAX as graphs in the core vocabulary."""

from bridge._sources.jax.listing.boundary import list_program as list_program
