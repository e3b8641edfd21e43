"""The modules of JAX libraries, found without importing these."""

import functools
import sys
from typing import Any

import jax

from bridge._core.pure_module import PureModule
from bridge._sources.jax.modules.leaves import is_array, is_inexact
from bridge._sources.jax.modules.linen import take_linen_apart
from bridge._sources.jax.modules.linen_modes import is_linen_module
from bridge._sources.jax.modules.nnx import is_nnx_module, take_nnx_apart
from bridge._sources.jax.modules.pytree import take_pytree_apart


def is_module(x: Any) -> bool:
    """Return True for a module of Flax or Equinox, or another callable pytree with arrays."""
    if isinstance(x, (type, functools.partial)) or not callable(x):
        return False
    if _is_flax(x, "nnx") or _is_flax(x, "linen"):
        return True
    leaves = _pytree_leaves(x)
    return any(map(is_array, leaves))


def take_apart(
    module: Any, *, method: Any, allow_64_bits: bool
) -> tuple[PureModule, dict[str, Any], dict[str, Any]]:
    """Return a module as a pure function, its parameters and its buffers."""
    del allow_64_bits
    if is_nnx_module(module):
        return take_nnx_apart(module, method)
    if is_linen_module(module):
        return take_linen_apart(module, method)
    return take_pytree_apart(module, method)


def holds_parameters(x: Any) -> bool:
    """Return True if a function that captures `x` would freeze its parameters."""
    if isinstance(x, (type, functools.partial)) or not callable(x):
        return False
    if _is_flax(x, "linen"):
        bound: Any = x
        leaves = jax.tree.leaves(bound.variables) if bound.scope is not None else []
    elif _is_flax(x, "nnx"):  # not all versions of Flax make pytrees of modules
        leaves = jax.tree.leaves(sys.modules["flax.nnx"].state(x))
    else:
        leaves = _pytree_leaves(x)
    return any(map(is_inexact, leaves))


def _is_flax(x: Any, library: str) -> Any:
    flax = sys.modules.get(f"flax.{library}")
    return flax is not None and isinstance(x, flax.Module)


def _pytree_leaves(x: Any) -> list[Any]:
    leaves = jax.tree.leaves(x)
    return [] if len(leaves) == 1 and leaves[0] is x else leaves  # `x` is no pytree, but a leaf
