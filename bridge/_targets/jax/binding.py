"""The two operations of JAX that a call and its derivative are: NOTE [two primitives]."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive

from bridge._targets.jax.calls import Call, Linear
from bridge._targets.jax.internals import varying_axes

call_p = Primitive("bridge_call")
linear_p = Primitive("bridge_derivative")


def bind_call(function: Call, operands: Sequence[Any]) -> list[Any]:
    """The outputs of a call, and the residuals behind them."""
    return call_p.bind(*_alike(operands), function=function)


def bind_derivative(function: Linear, operands: Sequence[Any]) -> list[Any]:
    """The tangents of the smooth outputs of a call."""
    return linear_p.bind(*_alike(operands), function=function)


def _alike(xs: Sequence[Any]) -> list[Any]:
    """`xs`, all of them varying over the same axes of a mesh, as `jax.shard_map` asks."""
    axes = [varying_axes(x) for x in xs]
    union = frozenset[Any]().union(*axes)
    return [
        x if mine == union else jax.lax.pcast(x, tuple(union - mine), to="varying")
        for x, mine in zip(xs, axes, strict=True)
    ]
