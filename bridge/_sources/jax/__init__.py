"""Functions of JAX as Ops, transformed by JAX."""

from bridge._sources.jax._source import FACE as FACE
