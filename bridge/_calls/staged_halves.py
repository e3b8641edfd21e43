"""The halves of a derivative of a call that a graph holds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._core import pytree
from bridge._core.op import Arrays, Specs
from bridge._core.protocols import Execute
from bridge._core.saving_forward import SavingForward


@dataclasses.dataclass(frozen=True)
class StagedHalves:
    """A forward and a backward half, with what a graph does not pass.

    Attributes:
        saving_forward: Both halves.
        execute_op: Executes them.
        primal_values: The primals, of which a graph passes some.
        positions: Positions of the arrays that it passes among the primals.
    """

    saving_forward: SavingForward
    execute_op: Execute
    primal_values: Sequence[Any]
    positions: Sequence[int]

    @property
    def output_count(self) -> int:
        """How many results of the forward are outputs; the others are residuals."""
        return self.saving_forward.pair.output_count

    def residual_specs(self) -> Specs:
        """Return the specs of the residuals."""
        return self.saving_forward.pair.forward.output_specs()[self.output_count :]

    def saved_specs(self) -> Specs:
        """Return the specs of the saved outputs and of the residuals, which the backward takes."""
        return tuple(self.read_saved(self.saving_forward.pair.forward.output_specs()))

    def read_saved(self, results: Sequence[Any]) -> list[Any]:
        """Return the saved outputs and the residuals among the results of the forward."""
        return self.saving_forward.read_saved(results)

    def execute_forward(self, arrays: Sequence[Any]) -> Arrays:
        """Compute the outputs and the residuals."""
        return self.execute_op(self.saving_forward.pair.forward, self._primals(arrays))

    def execute_backward(
        self,
        argnums: Sequence[int],
        arrays: Sequence[Any],
        saved: Sequence[Any],
        cotangents: Sequence[Any],
    ) -> Arrays:
        """Compute the gradients of the arrays at `argnums`."""
        pair, primals = self.saving_forward.pair, self._primals(arrays)
        backward = pair.backward(tuple(self.positions[i] for i in argnums))
        saved_primals = (primals[i] for i in pair.saved_primals)
        return self.execute_op(backward, (*saved_primals, *saved, *cotangents))

    def _primals(self, arrays: Sequence[Any]) -> Sequence[Any]:
        return pytree.scatter(arrays, self.positions, self.primal_values)
