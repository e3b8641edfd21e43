"""Names that JAX does not promise to keep, about jaxprs."""

from typing import Any

from jax.extend.core import Jaxpr


def inner_jaxprs(eqn: Any) -> list[Jaxpr]:
    """Return the functions that an equation calls, such as the branches of a condition."""
    return jaxprs_in(eqn.params)


def jaxprs_in(params: dict[str, Any]) -> list[Jaxpr]:
    """Return the functions among the parameters of an equation."""
    values: list[Any] = []
    for param in params.values():
        values += param if isinstance(param, (tuple, list)) else [param]
    opened = (getattr(value, "jaxpr", value) for value in values)  # a ClosedJaxpr holds a Jaxpr
    return [value for value in opened if isinstance(value, Jaxpr)]


def has_unsupported_tangents(jaxpr: Jaxpr) -> bool:
    """Return True if `jaxpr` raises when run, because a `jax.custom_vjp` in it has no tangents."""
    return any(
        # The placeholder that JAX puts into a jaxpr for the tangents of a `jax.custom_vjp`.
        eqn.primitive.name == "custom_lin" or any(map(has_unsupported_tangents, inner_jaxprs(eqn)))
        for eqn in jaxpr.eqns
    )


def depends_on_arguments(jaxpr: Jaxpr) -> bool:
    """Return True if a result of `jaxpr` depends on an argument; looks into loops and branches."""
    return any(dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1])


try:
    from jax.interpreters.partial_eval import dce_jaxpr
except ImportError:

    def dce_jaxpr(jaxpr: Jaxpr, used_outputs: list[bool]) -> tuple[Jaxpr, list[bool]]:
        """Find which arguments are used; loops and branches count as using all of theirs."""
        used = {id(var) for var, use in zip(jaxpr.outvars, used_outputs, strict=True) if use}
        for eqn in reversed(jaxpr.eqns):
            if used & {id(var) for var in eqn.outvars}:
                used |= {id(var) for var in eqn.invars}
        return jaxpr, [id(var) in used for var in jaxpr.invars]
