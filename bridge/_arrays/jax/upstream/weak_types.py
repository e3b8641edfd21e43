"""Names of JAX that are not promised, for arrays whose dtype gives way to that of others."""

from typing import Any

import jax
from jax.extend.core.primitives import convert_element_type_p


def is_weakly_typed(x: Any) -> bool:
    """Return True for an array, or the spec of one, whose dtype gives way to that of others."""
    return getattr(x, "weak_type", False)


def weakly_typed(x: Any) -> Any:
    """Return an array, or the spec of one, whose dtype gives way to that of others.

    No function of JAX gives arrays of all shapes and dtypes a weak type.
    """
    if is_weakly_typed(x):
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=True)
    return convert_element_type_p.bind(x, new_dtype=x.dtype, weak_type=True, sharding=None)
