"""The choice of a strategy for the first derivative of a function."""

import math

from bridge._core.op import ForwardBackward
from bridge._sources.jax.cost import recompute_cost, residual_cost
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.residuals import save_residuals
from bridge._sources.jax.scalar_gradient import gradient_with_value, is_scalable

# Gradients are preferred up to this factor, since they compile one program, and the others two.
_GRADIENT_PREFERENCE = 2


def choose_strategy(derivative: Derivative, residuals: str) -> ForwardBackward | None:
    """Make the forward/backward pair that costs least; None if recomputing does."""
    if residuals == "save":
        return save_residuals(derivative).forward_backward()
    recompute = recompute_cost(derivative.program.jaxpr.jaxpr)
    gradient = math.inf
    if is_scalable(derivative):
        gradient = residual_cost([derivative.primals[i] for i in derivative.argnums])
    saved = save_residuals(derivative)
    save = residual_cost(saved.packing.buffers(), sum(map(len, saved.packing.groups)))
    if gradient <= _GRADIENT_PREFERENCE * min(recompute, save):
        return gradient_with_value(derivative, saved)
    return saved.forward_backward() if save < recompute else None
