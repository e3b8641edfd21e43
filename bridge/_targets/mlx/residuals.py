"""The residuals of a call in MLX: what its forward saves for its backward."""

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

    def save(self, results: Sequence[Any]) -> "SavedForBackward":
        """Select the residuals among the results of the forward, which are source arrays."""
        outputs = [results[i] for i in self.pair.saved_outputs]
        return SavedForBackward(self, [*outputs, *results[self.pair.output_count :]])


@dataclasses.dataclass(frozen=True)
class SavedForBackward:
    """The residuals of one call.

    Attributes:
        forward: What has saved them.
        outputs_and_residuals: The saved outputs and residuals, as source arrays.
    """

    forward: SavingForward
    outputs_and_residuals: Sequence[Any]

    def backward(self, argnums: Positions, outnums: Positions, arity: int) -> "BackwardCall | None":
        """Return the backward for these gradients and cotangents; None if it cannot give them."""
        if not {*argnums} <= {*self.forward.argnums}:
            return None
        pair = self.forward.pair
        op = pair.backward(argnums) if outnums == self.forward.outnums else None
        if op is None and pair.backward_from:
            op = pair.backward_from(argnums, outnums)
        return (
            BackwardCall(op, arity, pair.saved_primals, self.outputs_and_residuals) if op else None
        )


@dataclasses.dataclass(frozen=True)
class BackwardCall:
    """The backward of a derivative, with the residuals of its forward.

    Attributes:
        op: The backward.
        arity: The number of primals.
        saved_primals: Positions of the primals that the backward takes.
        outputs_and_residuals: The saved outputs and residuals that it takes, as source arrays.
    """

    op: Op
    arity: int
    saved_primals: Positions
    outputs_and_residuals: Sequence[Any]

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        """Return the arguments of the backward; `args` are primals, then cotangents."""
        saved_primals = (args[i] for i in self.saved_primals)
        return [*saved_primals, *self.outputs_and_residuals, *args[self.arity :]]
