"""What a function was when it was looked at, and may be no longer.

NOTE [checks while MLX computes]
A function of MLX runs on each call, and what it captures may have changed since it was looked at.
What it returns is checked when it is being computed already: that takes no time of its own.
"""

import dataclasses
import functools
from collections.abc import Sequence

import mlx.core as mx

from bridge._arrays.mlx import (
    ARRAYS as ARRAYS,
    build_stream,
    captures_traced,
    dtype_of,
    unmarked_placeholder,
)
from bridge._core.errors import ArgumentError
from bridge._core.op import Specs
from bridge._core.spec import check_specs_unchanged
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.graph_summary import has_float64
from bridge._sources.mlx.missing_rules import looks_at_values
from bridge._sources.mlx.random import Fun


def check_captured(fun: Fun, primals: Specs, name: str) -> None:
    """Raise where a captured array would lose its gradient, unless values are looked at."""

    def build() -> Sequence[mx.array]:
        xs = [unmarked_placeholder(spec.shape, dtype_of(spec.dtype)) for spec in primals]
        with build_stream(has_float64=has_float64(primals)), dry_run():
            try:
                return fun(*xs)
            except (ValueError, RuntimeError) as error:
                if not looks_at_values(error):
                    raise
                return []

    if captures_traced(build):
        raise ArgumentError(
            f"{name} captures an array inside of mx.grad or another transformation, "
            "which would lose its gradient. Pass it as an argument, or capture "
            "mx.array(np.array(x)), which is a constant."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ObservedCall:
    """What was found when a function was looked at, to which each call is held.

    Attributes:
        outputs: Specs of its results.
        name: Of it.
        may_draw: Whether random numbers may be drawn.
        captures: Raises where a captured array would lose its gradient.
    """

    outputs: Specs
    name: str
    may_draw: bool
    captures: functools.partial[None] | None

    @functools.cached_property
    def _expected(self) -> list[tuple[tuple[int, ...], mx.Dtype]]:
        return [(spec.shape, dtype_of(spec.dtype)) for spec in self.outputs]

    def check_call(self, found: Sequence[mx.array], *, drew: bool) -> None:
        """Raise unless a call has done as was found: NOTE [checks while MLX computes]."""
        self.check_outputs(found)
        if drew and not self.may_draw:
            raise ArgumentError(
                f"{self.name} draws random numbers now, and did not when it was looked at. Pass a "
                "key, `rng=`, or wrap it anew where a module has changed its mode."
            )
        if self.captures:
            self.captures()

    def check_outputs(self, found: Sequence[mx.array]) -> Sequence[mx.array]:
        """The results of a call, if they are of the shapes and dtypes that were found."""
        if [(y.shape, y.dtype) for y in found] != self._expected:
            check_specs_unchanged([*map(ARRAYS.spec, found)], self.outputs, self.name)
        return found
