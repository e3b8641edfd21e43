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
from bridge._sources.jax.modules.pytree_modes import find_flags


def is_module(x: Any) -> bool:
    """Return True for a module of Flax or Equinox, or another callable pytree with arrays.

    Bound methods of modules, and what wraps a module, as `equinox.filter_jit` does, are functions.
    """
    is_function = hasattr(x, "__self__") or _is_candidate(getattr(x, "__wrapped__", None))
    return not is_function and _is_candidate(x)


def _is_candidate(x: Any) -> bool:
    is_partial = isinstance(x, functools.partial) and not isinstance(x, jax.tree_util.Partial)
    if isinstance(x, type) or is_partial:
        return False
    if is_nnx_module(x) or is_linen_module(x):
        return True
    equinox = sys.modules.get("equinox")
    is_callable = callable(x) or (equinox is not None and isinstance(x, equinox.Module))
    leaves = _pytree_leaves(x) if is_callable else []
    return any(map(is_array, leaves)) or (bool(leaves) and bool(find_flags(x)))


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
    if not is_module(x):
        return False
    if is_linen_module(x):
        leaves = jax.tree.leaves(x.variables) if x.scope is not None else []
    elif is_nnx_module(x):  # not all versions of Flax make pytrees of modules
        leaves = jax.tree.leaves(sys.modules["flax.nnx"].state(x))
    else:
        leaves = _pytree_leaves(x)
    return any(map(is_inexact, leaves))


def _pytree_leaves(x: Any) -> list[Any]:
    leaves = jax.tree.leaves(x)
    return [] if len(leaves) == 1 and leaves[0] is x else leaves  # `x` is no pytree, but a leaf
