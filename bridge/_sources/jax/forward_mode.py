"""Tangents of functions of JAX, also where there is a rule for gradients alone.

NOTE [tangents from gradients]
A `jax.custom_vjp` has no rule for tangents. The gradient is linear in its cotangent, so that the
gradient of that, by the cotangent, is the map of tangents. If a rule is not linear, as one that
clips what comes in, it matters at which cotangent that is taken: there is no tangent, and the
function is refused. That shows in the program of the tangents, which then takes the cotangent.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from bridge._core.errors import NoRuleError
from bridge._sources.jax.internals import has_impure_effects, lacks_tangents

Fun = Callable[..., Sequence[Any]]


def jvp(fun: Fun, xs: Sequence[Any], directions: Sequence[Any], name: str) -> Sequence[Any]:
    """The tangents of `fun` at `xs`, all of whose results are differentiable."""

    def forward(xs: Sequence[Any], directions: Sequence[Any]) -> Any:
        return jax.jvp(fun, tuple(xs), tuple(directions))[1]

    if any(isinstance(x, Tracer) for x in (*xs, *directions)):
        traced = jax.make_jaxpr(forward)(xs, directions)
        if not lacks_tangents(traced.jaxpr):
            return jaxpr_as_fun(traced)(*xs, *directions)
    else:  # it may look at values
        try:
            return forward(xs, directions)
        except TypeError as error:
            if "(jvp) to a custom_vjp" not in str(error):
                raise
    return _double_vjp(fun, xs, directions, name)


def _double_vjp(fun: Fun, xs: Sequence[Any], directions: Sequence[Any], name: str) -> Sequence[Any]:
    """The tangents by two pullbacks: NOTE [tangents from gradients]."""
    outputs, pull = jax.vjp(fun, *xs)

    def tangents(cotangents: Sequence[Any]) -> Any:
        return jax.vjp(lambda free: pull(free), list(cotangents))[1](tuple(directions))[0]

    zeros = [jnp.zeros_like(y) for y in outputs]
    if has_impure_effects(jax.make_jaxpr(tangents)(zeros).jaxpr):
        raise NoRuleError(
            f"{name} has no tangents: the gradient of a jax.custom_vjp in it is not linear in the "
            "cotangent, as where it is clipped. Use reverse mode, or a jax.custom_jvp."
        )
    return tangents(zeros)
