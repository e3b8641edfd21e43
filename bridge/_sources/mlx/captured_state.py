"""The state that a function of MLX captures: NOTE [the state of a call]."""

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import transforming
from bridge._arrays.mlx.upstream.dot_graph import is_same_node
from bridge._arrays.numpy_copies import NumpySnapshots
from bridge._core.captured_state import Snapshots, StateReader
from bridge._core.captured_values import Holder
from bridge._core.trial_state import TrialState
from bridge._sources.mlx.random import KEYS
from bridge._sources.mlx.reachable import places, reachable


def state_reader(fn: Callable[..., Any], *, may_evaluate: bool = True) -> StateReader:
    """Return a reader of the state of `fn`, which evaluates captured arrays if it may."""
    return StateReader(
        functools.partial(_find_places, fn), ArraySnapshots(may_evaluate=may_evaluate)
    )


def trial_state(fn: Callable[..., Any]) -> TrialState:
    """Return the other state of `fn`, to be restored after a dry run."""
    return TrialState(reachable(fn, _is_keys), find_places=places)


def _is_keys(x: Any) -> bool:
    """Return True for the keys of `mx.random`, which other code takes care of."""
    return x is KEYS


def _find_places(fn: Callable[..., Any]) -> Iterator[Holder]:
    """Yield the places where `fn` finds values, those in modules included."""
    for x in reachable(fn, _is_keys):
        if not _is_keys(x):
            yield from places(x)


class ArraySnapshots(NumpySnapshots):
    """Arrays of MLX, which become other arrays when they are written to, and arrays of NumPy."""

    def __init__(self, *, may_evaluate: bool) -> None:
        self._may_evaluate = may_evaluate

    def can_copy(self, x: Any) -> bool:
        return isinstance(x, mx.array) or super().can_copy(x)

    def copy(self, arrays: Sequence[Any]) -> Snapshots:
        others = [x for x in arrays if not isinstance(x, mx.array)]
        # The copies are the same arrays as new objects, which nobody writes to.
        own = [(x, x[...]) for x in arrays if isinstance(x, mx.array)]
        return [*own, *super().copy(others)] if others else own

    def changed(self, copies: Snapshots) -> Snapshots:
        own = [pair for pair in copies if isinstance(pair[0], mx.array)]
        others = copies[len(own) :]
        # Within a transformation, an array that is evaluated would lose its gradient.
        by_memory = self._may_evaluate and len(own) > _FEW and not transforming()
        is_same = _has_same_memory if by_memory else is_same_node
        changed = [pair for pair in own if not is_same(*pair)]
        return [*changed, *super().changed(others)] if others else changed

    def restore(self, copies: Snapshots) -> None:
        own = [pair for pair in copies if isinstance(pair[0], mx.array)]
        for x, copy in own:
            x[...] = copy
        super().restore(copies[len(own) :])


_FEW = 3  # asking for a transformation takes as long as writing the graphs of some arrays
_view: Any = ctypes.c_char.from_buffer


def _has_same_memory(x: mx.array, copy: mx.array) -> bool:
    """Return True if `x` was not written to since the copy; three times as fast by memory."""
    try:
        return ctypes.addressof(_view(x)) == ctypes.addressof(_view(copy))
    except (BufferError, RuntimeError, TypeError, ValueError):  # with gaps, without values, empty
        return is_same_node(x, copy)
