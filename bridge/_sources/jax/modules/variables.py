"""The variables of modules of Flax nnx, and the arrays in them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bridge._sources.jax.modules.keys import key_like
from bridge._sources.jax.modules.leaves import (
    as_array,
    dotted_name,
    is_array,
    is_inexact,
    without_values,
)


class VariableArrays:
    """A variable of nnx, or an array in its place, as arrays with names.

    Attributes:
        path: Its place in the module.
        arrays: Its arrays by name; the state of random numbers has none.
    """

    def __init__(self, path: tuple[Any, ...], variable: Any) -> None:
        from flax import nnx

        is_variable = isinstance(variable, nnx.Variable)
        self.path, self._variable = path, variable if is_variable else None
        self._is_random = isinstance(variable, nnx.RngState)
        value = variable.get_raw_value() if is_variable else variable
        pairs, self._structure = jax.tree_util.tree_flatten_with_path(value)
        self._leaves = [as_array(leaf) for _, leaf in pairs]
        names = [dotted_name((*path, *inner)) for inner, _ in pairs]
        positions = [i for i, leaf in enumerate(self._leaves) if is_array(leaf)]
        self._names = {} if self._is_random else {i: names[i] for i in positions}
        self.arrays = {name: self._leaves[i] for i, name in self._names.items()}

    def is_trained(self, array: Any) -> bool:
        """Return True for an array that is a parameter."""
        from flax import nnx

        return isinstance(self._variable, nnx.Param) and is_inexact(array)

    def without_values(self) -> "VariableArrays":
        """Return the variable with specs for arrays; random numbers keep their state."""
        return VariableArrays(self.path, self.build({}))

    def build(self, arrays: Mapping[str, Any], key: Any = None) -> Any:
        """Return the variable with these arrays, and specs in place of missing ones.

        Args:
            arrays: Arrays by name.
            key: The key from which random numbers follow, by default those of the original.
        """
        leaves = list(self._leaves)
        for i, name in self._names.items():
            leaves[i] = arrays[name] if name in arrays else without_values(leaves[i])
        if self._is_random:
            leaves = [_random_state(leaf, key) for leaf in leaves]
        value = jax.tree_util.tree_unflatten(self._structure, leaves)
        return value if self._variable is None else self._variable.copy(value)


def _random_state(leaf: Any, key: Any) -> Any:
    """Return keys that follow from `key` for keys, and zeros for counts of what was drawn."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    if key is None and not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if not is_key:
        return jnp.zeros(leaf.shape, leaf.dtype)
    return key_like(jax.random.key(0) if key is None else key, leaf)
