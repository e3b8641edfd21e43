"""The jaxprs inside a jaxpr."""

from typing import Any

from jax.extend.core import Jaxpr


def inner_jaxprs(eqn: Any) -> list[Jaxpr]:
    """Return the functions that an equation calls, such as the branches of a condition."""
    params: list[Any] = []
    for param in eqn.params.values():
        params += param if isinstance(param, (tuple, list)) else [param]
    opened = (getattr(param, "jaxpr", param) for param in params)  # a ClosedJaxpr holds a Jaxpr
    return [param for param in opened if isinstance(param, Jaxpr)]
