"""Outputs of a traced function that are its inputs as they are."""

from typing import Any

from jax.extend.core import Jaxpr

from bridge._arrays.jax.upstream.jaxprs import inner_jaxprs

_CALLS = ("jit", "pjit", "checkpoint", "remat2", "closed_call", "core_call")


def forwarded_inputs(jaxpr: Jaxpr) -> list[int | None]:
    """Return for each output the position of the input that it is; looks into calls and branches.

    Those of loops JAX forwards itself.
    """
    originals: dict[int, Any] = {}  # by the id of a variable, the one that it is a copy of
    for eqn in jaxpr.eqns:
        for var, position in zip(eqn.outvars, _forwarded_operands(eqn), strict=True):
            if position is not None:
                operand = eqn.invars[position]
                originals[id(var)] = originals.get(id(operand), operand)
    positions = {id(var): i for i, var in enumerate(jaxpr.invars)}
    return [positions.get(id(originals.get(id(var), var))) for var in jaxpr.outvars]


def _forwarded_operands(eqn: Any) -> list[int | None]:
    """Return for each output of an equation the position of the operand that it is."""
    if eqn.primitive.name in _CALLS:
        return forwarded_inputs(inner_jaxprs(eqn)[0])
    if eqn.primitive.name == "cond":  # its first operand chooses the branch
        branches = map(forwarded_inputs, inner_jaxprs(eqn))
        pairs = [(first, {first, *others}) for first, *others in zip(*branches, strict=True)]
        return [None if first is None or len(same) > 1 else first + 1 for first, same in pairs]
    return [None] * len(eqn.outvars)
