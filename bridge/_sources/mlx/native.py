"""Functions of the user as functions of flat arrays, and how derivatives of them are made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import ARRAYS as ARRAYS
from bridge._sources.mlx.dry_run import call_checked
from bridge._sources.mlx.random import Fun, with_seed


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        compile: Whether `mx.compile` fuses their operations.
        residuals: `save`, `recompute` or `auto`, how a first derivative is taken.
        seed: The position of the argument that random numbers follow from.
    """

    compile: bool
    residuals: str
    seed: int | None


def as_flat_function(fn: Callable[..., Any], seed: int | None) -> Fun:
    """`fn` with arrays as results, drawing random numbers from the argument `seed`."""

    def fun(*xs: mx.array) -> list[mx.array]:
        found = call_checked(fn, [x[...] for x in xs])  # objects that it may write to in place
        return [y if isinstance(y, mx.array) else ARRAYS.make_array(y) for y in found]

    return fun if seed is None else with_seed(fun, seed)
