"""Forward mode of JAX functions, including those that define a rule for gradients only.

NOTE [tangents from gradients]
A `jax.custom_vjp` has no rule for tangents. But the gradient is a linear function of the cotangent,
and the vjp of that function maps tangents of the primals to tangents of the outputs. If a rule is
not linear, such as one that clips its cotangent, the result depends on the cotangent at which this
vjp is taken: then there are no tangents, and the function is refused. To tell, the program of the
tangents is traced as a function of that cotangent: it must not depend on it. And the program of the
gradients must not be known to be nonlinear: a constant, a sum with one, or something rounded has a
derivative that does not depend on the cotangent either.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend.core import jaxpr_as_fun

from bridge._arrays.jax.upstream.jaxprs import depends_on_arguments, has_unsupported_tangents
from bridge._core.errors import NoRuleError
from bridge._sources.jax.linearity import is_nonlinear

Fun = Callable[..., Sequence[Any]]


def jvp(fun: Fun, xs: Sequence[Any], tangents: Sequence[Any], name: str) -> Sequence[Any]:
    """Return the tangents of the outputs of `fun` at `xs`, all of which are differentiable."""

    def forward(xs: Sequence[Any], tangents: Sequence[Any]) -> Any:
        return jax.jvp(fun, tuple(xs), tuple(tangents))[1]

    if any(isinstance(x, Tracer) for x in (*xs, *tangents)):
        jaxpr = jax.make_jaxpr(forward)(xs, tangents)
        if not has_unsupported_tangents(jaxpr.jaxpr):
            return jaxpr_as_fun(jaxpr)(*xs, *tangents)
    else:  # not traced, because `fun` may look at values
        try:
            return forward(xs, tangents)
        except TypeError as error:
            if "(jvp) to a custom_vjp" not in str(error):
                raise
    return _double_vjp(fun, xs, tangents, name)


def _double_vjp(fun: Fun, xs: Sequence[Any], tangents: Sequence[Any], name: str) -> Sequence[Any]:
    """Compute the tangents by two vjps: NOTE [tangents from gradients]."""
    outputs, pullback = jax.vjp(fun, *xs)

    def output_tangents(cotangents: Sequence[Any]) -> Any:
        return jax.vjp(lambda free: pullback(free), list(cotangents))[1](tuple(tangents))[0]

    zeros = [jnp.zeros_like(y) for y in outputs]
    gradients = jax.make_jaxpr(lambda cotangents: pullback(cotangents))(zeros)
    tangents_of_zeros = jax.make_jaxpr(output_tangents)(zeros)
    if is_nonlinear(gradients) or depends_on_arguments(tangents_of_zeros.jaxpr):
        raise NoRuleError(
            f"{name} has no tangents: the gradient of a jax.custom_vjp in it is not linear in the "
            "cotangent, as where it is clipped, or leaves the cotangent out. Use reverse mode, or "
            "a jax.custom_jvp."
        )
    return output_tangents(zeros)
