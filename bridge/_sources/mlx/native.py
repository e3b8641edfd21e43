"""Functions of the user as functions of flat arrays, and the settings of their Ops."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS
from bridge._sources.mlx.dry_run import call_or_dry_run
from bridge._sources.mlx.random import Fun, with_seed


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        compile: True if `mx.compile` fuses their operations.
        residuals: The strategy for a first derivative: `save`, `recompute` or `auto`.
        seed_argnum: The position of the argument that random numbers follow from.
    """

    compile: bool
    residuals: str
    seed_argnum: int | None


def as_flat_function(fn: Callable[..., Any], seed_argnum: int | None) -> Fun:
    """Return `fn` so that it returns arrays, and draws from the seed at `seed_argnum`."""

    def fun(*xs: mx.array) -> list[mx.array]:
        # As new objects, since `fn` may write to its arguments in place.
        results = call_or_dry_run(fn, [x[...] for x in xs])
        return [y if isinstance(y, mx.array) else ARRAYS.make_array(y) for y in results]

    return fun if seed_argnum is None else with_seed(fun, seed_argnum)
