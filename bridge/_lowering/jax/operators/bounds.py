"""Indices that are out of bounds, which torch refuses: reads are filled, writes are dropped."""

from typing import Any

import jax.numpy as jnp

READ: Any = {"mode": "fill"}
WRITE: Any = {"mode": "drop"}


def negative_out_of_bounds(index: Any, size: int) -> Any:
    """Return the indices with negative ones moved out of bounds."""
    return jnp.where(index < 0, size, index)
