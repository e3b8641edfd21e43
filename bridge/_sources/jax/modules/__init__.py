"""Modules of JAX libraries as pure functions of their arrays."""

from bridge._sources.jax.modules.recognition import (
    holds_parameters as holds_parameters,
    is_module as is_module,
    take_apart as take_apart,
)
