"""Copies of objects that change in place: arrays of NumPy and Python, and random generators."""

import array
import functools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._core.captured_state import Snapshots
from bridge._core.trial_state import MOST_BYTES, Restore

_MOST_BYTES = 2**24  # a copy takes as long as reading the array once


class NumpySnapshots:
    """Arrays of NumPy and Python, and their random generators."""

    def can_copy(self, x: Any) -> bool:
        """Return True if `x` can change in place and is small enough to copy."""
        if isinstance(x, np.ndarray):
            return x.flags.writeable and x.nbytes <= _MOST_BYTES and not x.dtype.hasobject
        if isinstance(x, (bytearray, array.array)):
            return memoryview(x).nbytes <= _MOST_BYTES
        return is_random(x)

    def copy(self, arrays: Sequence[Any]) -> Snapshots:
        """Return each object with a copy of its present state."""
        return [(x, _state(x)) for x in arrays]

    def changed(self, copies: Snapshots) -> Snapshots:
        """Return those of `copies` whose objects have changed since."""
        return [pair for pair in copies if not _is_same(_state(pair[0], copy=False), pair[1])]

    def restore(self, copies: Snapshots) -> None:
        """Restore the objects to their copied states."""
        for x, before in copies:
            _set_state(x, before)


def is_random(x: Any) -> bool:
    """Return True for a random generator, or a module with a global one."""
    return isinstance(x, (np.random.Generator, np.random.RandomState, random.Random)) or (
        x is np or x is np.random or x is random
    )


def read_memory(x: Any) -> tuple[Any, Any, bytes] | None:
    """Return shape, dtype and bytes of an array or a number of NumPy or Python, or None."""
    if isinstance(x, (np.ndarray, np.generic)) and not x.dtype.hasobject:
        return x.shape, x.dtype, x.tobytes()
    if isinstance(x, (bytearray, array.array)):
        return len(x), type(x), bytes(x)
    return None


def save_numpy(x: Any) -> Restore | None:
    """Return a function that restores an array or random generator; None for other objects."""
    is_array = isinstance(x, np.ndarray) and x.flags.writeable and x.nbytes <= MOST_BYTES
    if is_array or isinstance(x, (np.random.Generator, np.random.RandomState)):
        return functools.partial(_set_state, x, _state(x))
    return None


def save_numpy_random() -> Restore:
    """Return a function that restores the state of `np.random`."""
    return functools.partial(_set_state, np.random, _state(np.random))


def _generator(x: Any) -> Any:
    """Return what has the random state of `x`: for `numpy` itself, `numpy.random`."""
    return np.random if x is np else x


def _state(x: Any, *, copy: bool = True) -> Any:
    if isinstance(x, np.ndarray):
        return x.copy() if copy else x
    if isinstance(x, (bytearray, array.array)):
        return x[:]
    if isinstance(x, np.random.Generator):
        return x.bit_generator.state
    if isinstance(x, random.Random) or x is random:
        return x.getstate()
    return _generator(x).get_state(legacy=False)


def _set_state(x: Any, state: Any) -> None:
    if isinstance(x, np.ndarray):
        x[...] = state
    elif isinstance(x, (bytearray, array.array)):
        x[:] = state
    elif isinstance(x, np.random.Generator):
        x.bit_generator.state = state
    elif isinstance(x, random.Random) or x is random:
        x.setstate(state)
    else:
        _generator(x).set_state(state)


def _is_same(x: Any, y: Any) -> bool:
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_is_same(x[key], y[key]) for key in x)
    if isinstance(x, np.ndarray):
        return x.shape == y.shape and x.tobytes() == y.tobytes()  # bytes, since NaN != NaN
    return bool(x == y)
