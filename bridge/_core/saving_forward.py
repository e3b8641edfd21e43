"""A forward that saves what its backward needs, as targets use it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._core.op import ForwardBackward, Op, Positions


@dataclasses.dataclass(frozen=True)
class SavingForward:
    """A forward/backward pair, with the primals and outputs that it is made for.

    Attributes:
        pair: The forward and the backward.
        argnums: Positions of the primals that the backward can give gradients of.
        outnums: Positions of the outputs that have cotangents.
    """

    pair: ForwardBackward
    argnums: Positions
    outnums: Positions

    @property
    def saved_count(self) -> int:
        """The number of saved outputs and residuals, which the backward takes besides primals."""
        residuals = len(self.pair.forward.output_specs()) - self.pair.output_count
        return len(self.pair.saved_outputs) + residuals

    def read_saved(self, results: Sequence[Any]) -> list[Any]:
        """Return the saved outputs and the residuals among the results of the forward."""
        outputs = [results[i] for i in self.pair.saved_outputs]
        return [*outputs, *results[self.pair.output_count :]]

    def backward(self, argnums: Positions, outnums: Positions) -> Op | None:
        """Return the backward for these positions; `None` if it needs what was not saved."""
        if not {*argnums} <= {*self.argnums}:
            return None
        if outnums == self.outnums:
            return self.pair.backward(argnums)
        return self.pair.backward_from(argnums, outnums) if self.pair.backward_from else None


@dataclasses.dataclass(frozen=True)
class SavingChoice:
    """What a call saves for its first derivative.

    Attributes:
        argnums: Positions of the primals that the derivative is by.
        outnums: Positions of the outputs that have it.
        pair: The forward and the backward; None if nothing is saved but primals.
        reason: Why the target does not use a pair that the source has; else `""`.
        is_wanted: False if a call saves nothing now, as no argument requires a gradient.
    """

    argnums: Positions
    outnums: Positions
    pair: ForwardBackward | None
    reason: str = ""
    is_wanted: bool = True
