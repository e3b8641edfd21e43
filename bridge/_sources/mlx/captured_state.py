"""What a function of MLX captures: NOTE [the state of a call]."""

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import transforming
from bridge._arrays.numpy_copies import NumpyCopies
from bridge._core.captured_state import Copies, StateReader, find_places
from bridge._core.captured_values import Holder, walk_holders
from bridge._core.trial_state import TrialState
from bridge._sources.mlx.dot_graph import is_same_node
from bridge._sources.mlx.random import KEYS


def state_reader(fn: Callable[..., Any], *, evaluates: bool = True) -> StateReader:
    """What reads the state of `fn`, where arrays that this captures may be evaluated or not."""
    return StateReader(functools.partial(_find_places, fn), _Arrays(evaluates=evaluates))


def trial_state(fn: Callable[..., Any]) -> TrialState:
    """What else `fn` captures, to be put back after a run that leaves no trace."""
    return TrialState(walk_holders(fn, _is_closed))


def _is_closed(x: Any) -> bool:
    return is_module(x) or x is KEYS


def _find_places(fn: Callable[..., Any]) -> Iterator[Holder]:
    modules: list[Any] = []

    def is_closed(x: Any) -> bool:
        if is_module(x):
            modules.append(x)
        return _is_closed(x)

    yield from find_places(fn, is_closed)
    parts = {id(part): part for x in modules for part in x.modules()}
    for part in parts.values():
        name = type(part).__name__
        yield from (Holder(part, name), Holder(vars(part), name))
        yield from _nested(part.values())


def _nested(values: Any) -> Iterator[Holder]:
    """The containers in a module."""
    for x in values:
        if isinstance(x, (dict, list)) and not is_module(x):
            yield Holder(x, type(x).__name__)
            yield from _nested(x.values() if isinstance(x, dict) else x)


def is_module(x: Any) -> bool:
    """Whether `x` is a module of MLX."""
    nn = sys.modules.get("mlx.nn")
    return nn is not None and isinstance(x, nn.Module)


class _Arrays(NumpyCopies):
    """Arrays of MLX, which write to themselves by becoming others, and what else changes."""

    def __init__(self, *, evaluates: bool) -> None:
        self._evaluates = evaluates

    def is_array(self, x: Any) -> bool:
        return isinstance(x, mx.array) or super().is_array(x)

    def copy(self, arrays: Sequence[Any]) -> Copies:
        # The same arrays as other objects, which no one writes to.
        others = [x for x in arrays if not isinstance(x, mx.array)]
        own = [(x, x[...]) for x in arrays if isinstance(x, mx.array)]
        return [*own, *super().copy(others)] if others else own

    def changed(self, copies: Copies) -> Copies:
        own = [pair for pair in copies if isinstance(pair[0], mx.array)]
        others = copies[len(own) :]
        # Within a transformation, to evaluate an array would lose its gradient.
        by_memory = self._evaluates and len(own) > _FEW and not transforming()
        is_same = _has_same_memory if by_memory else is_same_node
        changed = [pair for pair in own if not is_same(*pair)]
        return [*changed, *super().changed(others)] if others else changed

    def put_back(self, copies: Copies) -> None:
        own = [pair for pair in copies if isinstance(pair[0], mx.array)]
        for x, as_it_was in own:
            x[...] = as_it_was
        super().put_back(copies[len(own) :])


_FEW = 3  # to look for a transformation takes as long as to draw the graphs of some arrays
_view: Any = ctypes.c_char.from_buffer


def _has_same_memory(x: mx.array, as_it_was: mx.array) -> bool:
    """Whether an array has not been written to since: by its memory, three times as fast."""
    try:
        return ctypes.addressof(_view(x)) == ctypes.addressof(_view(as_it_was))
    except (BufferError, RuntimeError, TypeError, ValueError):  # with gaps, without values, empty
        return is_same_node(x, as_it_was)
