"""Gradient rules for functions without autodiff, as `numpy2torch` takes them."""

from bridge._core.gradient_rules import (
    SPSA as SPSA,
    ComplexStep as ComplexStep,
    FiniteDifference as FiniteDifference,
    Jacobian as Jacobian,
    Jvp as Jvp,
    ParameterShift as ParameterShift,
    Vjp as Vjp,
)

for _rule in (ParameterShift, FiniteDifference, ComplexStep, SPSA, Vjp, Jvp, Jacobian):
    _rule.__module__ = __name__
