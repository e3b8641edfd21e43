"""Checks that calls of a function do what it did in its dry run.

NOTE [checks while MLX computes]
A function of MLX is rerun on every call, and what it captures may have changed since its dry run.
Its outputs are checked while MLX computes them already, so that the check takes no extra time.
"""

import dataclasses
import functools
from collections.abc import Sequence

import mlx.core as mx

from bridge._arrays.mlx import (
    ARRAYS as ARRAYS,
    captures_traced,
    dtype_of,
    lazy_stream,
    unmarked_placeholder,
)
from bridge._arrays.mlx.upstream.errors import looks_at_values
from bridge._core.errors import ArgumentError
from bridge._core.op import Specs
from bridge._core.spec import check_specs_unchanged
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.graph_summary import has_float64
from bridge._sources.mlx.random import Fun


def check_no_captured_tracers(fun: Fun, primals: Specs, name: str) -> None:
    """Raise if a captured array would lose its gradient; not if `fun` looks at values."""

    def build() -> Sequence[mx.array]:
        xs = [unmarked_placeholder(spec.shape, dtype_of(spec.dtype)) for spec in primals]
        with lazy_stream(has_float64=has_float64(primals)), dry_run():
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
class CallChecker:
    """Checks of each call against a dry run of the function.

    Attributes:
        outputs: The specs of the outputs.
        name: The name of the function.
        may_draw: True if random numbers may be drawn.
        check_no_captured_tracers: Raises if a captured array would lose its gradient.
    """

    outputs: Specs
    name: str
    may_draw: bool
    check_no_captured_tracers: functools.partial[None] | None

    @functools.cached_property
    def _expected(self) -> list[tuple[tuple[int, ...], mx.Dtype]]:
        return [(spec.shape, dtype_of(spec.dtype)) for spec in self.outputs]

    def check_call(self, outputs: Sequence[mx.array], *, drew: bool, transformed: bool) -> None:
        """Raise unless a call did what the dry run did: NOTE [checks while MLX computes].

        Only where it was `transformed` can what it captures be inside of a transformation.
        """
        self.check_outputs(outputs)
        if drew and not self.may_draw:
            raise ArgumentError(
                f"{self.name} draws random numbers now, and drew none in its first run. Pass a "
                "key, `rng=`, or wrap it again if a module has changed its mode."
            )
        if transformed and self.check_no_captured_tracers:
            self.check_no_captured_tracers()

    def check_outputs(self, outputs: Sequence[mx.array]) -> Sequence[mx.array]:
        """Return the outputs of a call; raise unless they have the expected shapes and dtypes."""
        if [(y.shape, y.dtype) for y in outputs] != self._expected:
            check_specs_unchanged([*map(ARRAYS.spec, outputs)], self.outputs, self.name)
        return outputs
