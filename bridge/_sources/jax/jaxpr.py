"""What is inside of jaxprs."""

from typing import Any

from jax.extend.core import Jaxpr


def inner_jaxprs(eqn: Any) -> list[Jaxpr]:
    """The functions that an equation calls, such as the branches of a condition."""
    found: list[Any] = []
    for param in eqn.params.values():
        found += param if isinstance(param, (tuple, list)) else [param]
    plain = (getattr(one, "jaxpr", one) for one in found)
    return [one for one in plain if isinstance(one, Jaxpr)]
