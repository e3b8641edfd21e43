"""Snapshots of NumPy arrays and random generators, and the functions that restore them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bridge._core.trial_state import MOST_BYTES

Restore = Callable[[], None]


def save_numpy(x: Any) -> Restore | None:
    """Return a function that restores an array or random generator; None for other objects."""
    if isinstance(x, np.random.Generator):
        return functools.partial(setattr, x.bit_generator, "state", x.bit_generator.state)
    if isinstance(x, np.random.RandomState):
        return functools.partial(x.set_state, x.get_state())
    if isinstance(x, np.ndarray) and x.flags.writeable and x.nbytes <= MOST_BYTES:
        return functools.partial(_write, x, x.copy())
    return None


def _write(x: np.ndarray, before: np.ndarray) -> None:
    x[...] = before


def save_numpy_random() -> Restore:
    """Return a function that restores the state of `np.random`."""
    return functools.partial(np.random.set_state, np.random.get_state())
