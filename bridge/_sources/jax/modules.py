"""Modules of JAX libraries such as Equinox and Flax, which hold parameters."""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def holds_parameters(x: Any) -> bool:
    """Return True if `x` is a module of Equinox or Flax, or another callable pytree of floats."""
    if isinstance(x, (type, functools.partial)) or not callable(x):
        return False
    return any(map(_is_inexact, _leaves(x)))


def _leaves(x: Any) -> list[Any]:
    """Return the leaves of a module, none if it holds no parameters."""
    nnx, linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    if nnx is not None and isinstance(x, nnx.Module):
        return jax.tree.leaves(nnx.state(x))  # not all versions of Flax make pytrees of modules
    if linen is not None and isinstance(x, linen.Module):
        return jax.tree.leaves(x.variables) if x.scope is not None else []  # if bound to variables
    leaves = jax.tree.leaves(x)
    return [] if len(leaves) == 1 and leaves[0] is x else leaves  # `x` is no pytree, but a leaf


def _is_inexact(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.inexact)
