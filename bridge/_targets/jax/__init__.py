"""Ops as native differentiable functions of JAX arrays."""

from bridge._targets.jax._function import FACE as FACE
