"""Ops as native differentiable functions of JAX arrays."""

from bridge._targets.jax.target import TARGET as TARGET
