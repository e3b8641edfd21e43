"""What a reader is told about a function of JAX."""

from typing import Any

from bridge._core.description import Description
from bridge._core.op import Positions
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.strategy import choose_strategy
from bridge._sources.jax.x64_boundary import narrowed_positions


def describe(function: Any) -> Description:
    """Describe a `Function`."""
    settings, program = function.settings, function.program
    environment = settings.environment
    if program is None:
        reason = "jit=False: JAX computes on copies, since no program says what shares memory"
        return Description(
            language="jaxpr",
            remarks=("jit=False: it runs again on each call and for each derivative of one.",),
            residual_reason=lambda *_: "jit=False: its derivatives run it again",
            copies=dict.fromkeys(range(len(function.primals)), reason),
        )
    narrowed = narrowed_positions(function.primals, x64=environment.x64)
    reason = "its integers are narrowed to 32 bits, since JAX computes in 32-bit mode"
    return Description(
        language="jaxpr",
        program=lambda: str(program.jaxpr),
        residual_reason=lambda *positions: _residual_reason(function, *positions),
        copies=dict.fromkeys(narrowed, reason),
    )


def _residual_reason(function: Any, argnums: Positions, outnums: Positions) -> str:
    """Say why a derivative saves what it saves, by the code that chooses."""
    if function.settings.residuals == "recompute":
        return 'residuals="recompute" asks for it'
    derivative = Derivative(
        function.program,
        function.name,
        function.primals,
        function.settings.environment,
        argnums,
        outnums,
    )
    try:
        return choose_strategy(derivative, function.settings.residuals).reason
    except Exception as error:  # noqa: BLE001, NOTE [halves that cannot be had]
        return f"it cannot be split in two halves: {error}"
