"""The residuals of a call in MLX: what its forward saves for its backward."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._core.op import Op, Positions
from bridge._core.saving_forward import SavingForward


@dataclasses.dataclass(frozen=True)
class SavedForBackward:
    """The residuals of one call.

    Attributes:
        forward: What has saved them.
        saved_arrays: The saved outputs and residuals, as source arrays.
    """

    forward: SavingForward
    saved_arrays: Sequence[Any]

    def backward(self, argnums: Positions, outnums: Positions, arity: int) -> "BackwardCall | None":
        """Return the backward for these gradients and cotangents; None if it cannot give them."""
        op = self.forward.backward(argnums, outnums)
        if op is None:
            return None
        saved_primals = self.forward.pair.saved_primals
        return BackwardCall(op, arity, saved_primals, self.saved_arrays)


@dataclasses.dataclass(frozen=True)
class BackwardCall:
    """The backward of a derivative, with the residuals of its forward.

    Attributes:
        op: The backward.
        arity: The number of primals.
        saved_primals: Positions of the primals that the backward takes.
        saved_arrays: The saved outputs and residuals that it takes, as source arrays.
    """

    op: Op
    arity: int
    saved_primals: Positions
    saved_arrays: Sequence[Any]

    def arguments(self, args: Sequence[Any]) -> list[Any]:
        """Return the arguments of the backward; `args` are primals, then cotangents."""
        saved_primals = (args[i] for i in self.saved_primals)
        return [*saved_primals, *self.saved_arrays, *args[self.arity :]]
