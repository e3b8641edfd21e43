"""Which way the first derivative of a function is taken."""

import math

from bridge._core.op import Split
from bridge._sources.jax.cost import keeping, running
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.residuals import saving
from bridge._sources.jax.scalar_gradient import scalable, scaling

# Gradients are favoured, for they need one program where the others compile two.
_FAVOUR = 2


def split(of: Derivative, residuals: str) -> Split | None:
    """The derivative in two halves, `None` where running the function again costs least."""
    if residuals == "save":
        return saving(of).split()
    again = running(of.program.jaxpr.jaxpr)
    gradients = keeping([of.primals[i] for i in of.wanted]) if scalable(of) else math.inf
    saved = saving(of)
    kept = keeping(saved.packing.buffers(), sum(map(len, saved.packing.together)))
    if gradients <= _FAVOUR * min(again, kept):
        return scaling(of)
    return saved.split() if kept < again else None
