"""Integers of fewer bits than torch takes as labels and indices, which a caller may have."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.errors import is_wide_integer_error
from bridge._core.op import Specs
from bridge._core.protocols import SEED
from bridge._core.pure_module import PureModule
from bridge._core.spec import NARROW_INTEGERS

_NARROW, _SMALL = {*NARROW_INTEGERS.values()}, {"uint8", "int8", "uint16", "int16"}
# Tensors of a module keep their dtypes, and JAX's data of keys are of 32 bits.
_KEPT_OF_MODULES, _KEPT = {"params", "buffers", SEED}, {SEED}


def narrow_positions(fn: Any, primals: Specs, names: Sequence[str]) -> list[int]:
    """Return the positions of arguments of `fn` that are integers of 32 bits.

    These `names` are written like `params['weight']`. Parameters and buffers are no arguments.
    """
    return _positions(fn, primals, names, _NARROW)


def advising_on_small(
    run: Callable[..., Any], fn: Any, primals: Specs, names: Sequence[str]
) -> Callable[..., Any]:
    """Add to errors of `run` about dtypes what to do with integers of 8 and 16 bits."""
    return advising(run, _positions(fn, primals, names, _SMALL), _NOTE_ON_SMALL)


def _positions(fn: Any, primals: Specs, names: Sequence[str], dtypes: Collection[str]) -> list[int]:
    kept = _KEPT_OF_MODULES if isinstance(getattr(fn, "written", fn), PureModule) else _KEPT
    return [
        i
        for i, (spec, name) in enumerate(zip(primals, names, strict=True))
        if spec.dtype in dtypes and name.partition("[")[0] not in kept
    ]


def widening(run: Callable[..., Any], positions: Sequence[int]) -> Callable[..., Any]:
    """Make `run` take integers of 64 bits in place of its arguments at `positions`."""

    def call(*xs: torch.Tensor) -> Any:
        return run(*[x.to(torch.int64) if i in positions else x for i, x in enumerate(xs)])

    return functools.wraps(run)(call) if positions else run


_NOTE = (
    "Among the arguments are integers of 32 bits, and here torch takes those of 64. Pass "
    '`integers="int64"` where the function is wrapped: it then gets integers of 32 bits as int64.'
)
_NOTE_ON_SMALL = (
    "Among the arguments are integers of 8 or 16 bits, and here torch takes those of 32 or 64. "
    'Convert them to int32, and pass `integers="int64"` where the function is wrapped, by which it '
    "gets these as int64."
)


def advising(
    run: Callable[..., Any], positions: Sequence[int], note: str = _NOTE
) -> Callable[..., Any]:
    """Add to errors of `run` about dtypes what to do with the arguments at `positions`."""

    def call(*xs: torch.Tensor) -> Any:
        try:
            return run(*xs)
        except (RuntimeError, IndexError, AssertionError) as error:
            if is_wide_integer_error(error) and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return functools.wraps(run)(call) if positions else run
