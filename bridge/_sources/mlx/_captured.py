"""Arrays that a function captures, where a derivative is being taken by them."""

import dataclasses

import mlx.core as mx

from bridge._arrays.mlx import building, captures_traced, dtype_of, unmarked
from bridge._errors import ArgumentError
from bridge._op import Specs
from bridge._sources.mlx._lacking import looks_at_values
from bridge._sources.mlx._looking import looking
from bridge._sources.mlx._outline import is_wide
from bridge._sources.mlx._random import Fun


@dataclasses.dataclass(frozen=True, eq=False)
class Captured:
    """What a function of the user captures, which is constant to its derivatives here.

    Attributes:
        fun: The function.
        primals: Specs of its arguments.
        name: Its name.
    """

    fun: Fun
    primals: Specs
    name: str

    def check(self) -> None:
        """Raise where a captured array would lose its gradient, unless values are looked at."""
        if captures_traced(self._outputs):
            raise ArgumentError(
                f"{self.name} captures an array inside of mx.grad or another transformation, "
                "which would lose its gradient. Pass it as an argument, or capture "
                "mx.array(np.array(x)), which is a constant."
            )

    def _outputs(self) -> list[mx.array]:
        xs = [unmarked(spec.shape, dtype_of(spec.dtype)) for spec in self.primals]
        with building(wide=is_wide(self.primals)), looking():
            try:
                return self.fun(*xs)
            except (ValueError, RuntimeError) as error:
                if not looks_at_values(error):
                    raise
                return []
