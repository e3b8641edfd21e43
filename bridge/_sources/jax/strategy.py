"""The choice of a strategy for the first derivative of a function."""

import dataclasses

from bridge._core.op import ForwardBackward, Specs
from bridge._sources.jax.cheap_operations import can_repeat, is_cheap, repeat_cheap_operations
from bridge._sources.jax.cost import recompute_cost, residual_cost, transcendental_size
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.residuals import SavedResiduals, save_residuals
from bridge._sources.jax.scalar_gradient import gradient_with_value, is_scalable


@dataclasses.dataclass(frozen=True)
class Choice:
    """A forward/backward pair, None to recompute, and why it was chosen."""

    pair: ForwardBackward | None
    reason: str


def choose_strategy(derivative: Derivative, residuals: str) -> Choice:
    """Make the forward/backward pair that costs least; none if recomputing does."""
    if residuals == "save":
        return Choice(save_residuals(derivative).forward_backward(), 'residuals="save" asks for it')
    if is_scalable(derivative):  # one program instead of two, and its backward is but a product
        reason = "the gradient of a single number is computed along with it"
        return Choice(gradient_with_value(derivative), reason)
    saved, cost = _save(derivative)
    recompute = recompute_cost(derivative.program.jaxpr.jaxpr)
    costs = f"{cost * 1e6:.3g} us to save, {recompute * 1e6:.3g} us to recompute, by the cost model"
    return Choice(saved.forward_backward() if cost < recompute else None, costs)


def _save(derivative: Derivative) -> tuple[SavedResiduals, float]:
    """Trace a forward half that saves what is worth it, and estimate what this costs."""
    jaxpr = derivative.program.jaxpr.jaxpr
    if not can_repeat(jaxpr):
        saved = save_residuals(derivative)
        return saved, residual_cost(*_buffers(saved))
    saved = save_residuals(derivative, repeat_cheap_operations(derivative.program))
    cost = residual_cost(*_buffers(saved), transcendental_size(jaxpr))
    return saved, cost + recompute_cost(jaxpr, is_cheap)


def _buffers(saved: SavedResiduals) -> tuple[Specs, int]:
    """Return the buffers of residuals, and how many arrays share one with others."""
    return saved.packing.buffers(), sum(map(len, saved.packing.groups))
