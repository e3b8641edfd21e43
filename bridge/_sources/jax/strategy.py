"""Which way the first derivative of a function is taken."""

import math

from bridge._core.op import ForwardBackward
from bridge._sources.jax.cost import recompute_cost, residual_cost
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.residuals import save_residuals
from bridge._sources.jax.scalar_gradient import gradient_with_value, is_scalable

# Gradients are favoured, for they need one program where the others compile two.
_FAVOUR = 2


def choose_strategy(of: Derivative, residuals: str) -> ForwardBackward | None:
    """The derivative in two halves, `None` where running the function again costs least."""
    if residuals == "save":
        return save_residuals(of).forward_backward()
    again = recompute_cost(of.program.jaxpr.jaxpr)
    gradients = residual_cost([of.primals[i] for i in of.argnums]) if is_scalable(of) else math.inf
    saved = save_residuals(of)
    kept = residual_cost(saved.packing.buffers(), sum(map(len, saved.packing.together)))
    if gradients <= _FAVOUR * min(again, kept):
        return gradient_with_value(of)
    return saved.forward_backward() if kept < again else None
