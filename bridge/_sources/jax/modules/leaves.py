"""The leaves of modules: arrays with values or without, and their names."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge._arrays.jax.upstream.weak_types import is_weakly_typed
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec


def is_array(x: Any) -> bool:
    """Return True for an array, and for a `jax.ShapeDtypeStruct`, which has no values."""
    return isinstance(x, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))


def is_inexact(x: Any) -> bool:
    """Return True for an array of floating-point or complex numbers."""
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.inexact)


def value_or_spec(x: Any) -> Any:
    """Return an array, or the spec of one that has no values."""
    return ArraySpec(x.shape, x.dtype.name, "cpu") if isinstance(x, jax.ShapeDtypeStruct) else x


def without_values(x: Any) -> Any:
    """Return a `jax.ShapeDtypeStruct` for an array, and anything else as it is."""
    if not is_array(x):
        return x
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=is_weakly_typed(x))


def as_array(x: Any) -> Any:
    """Return an array for a number, and anything else as it is."""
    return jnp.asarray(x) if isinstance(x, (bool, int, float, complex, np.generic)) else x


def dotted_name(path: Sequence[Any]) -> str:
    """Return the name of a leaf of a pytree: the keys that lead to it, with dots between."""
    return ".".join(map(_key_name, path))


def _key_name(key: Any) -> str:
    if isinstance(key, tuple):
        return dotted_name(key)
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def check_unique(names: Sequence[str], module: str) -> None:
    """Raise if two arrays of a module have one name."""
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise ArgumentError(
            f"two arrays of {module} have the name {twice[0]!r}. Rename a key in the tree."
        )


def check_no_keys(module: str, arrays: Mapping[str, Any]) -> None:
    """Raise if one of these arrays is a key of random numbers."""
    for name, array in arrays.items():
        if not isinstance(array, ArraySpec) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            raise ArgumentError(
                f"{name!r} of {module} is a key of random numbers, which no module of another "
                "framework can store. Let the function that is called take it as an argument "
                "`key`: it then gets a new one in each call."
            )
