"""The two primitives of JAX for calls and their derivatives: NOTE [two primitives]."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive

from bridge._arrays.jax.upstream.tracing import varying_axes
from bridge._targets.jax.calls import Call, Jvp

call_p = Primitive("bridge_call")
linear_p = Primitive("bridge_derivative")


def bind_call(function: Call, operands: Sequence[Any]) -> list[Any]:
    """Apply a call; return its outputs, then its residuals."""
    return call_p.bind(*_unify_varying_axes(operands), function=function)


def bind_derivative(function: Jvp, operands: Sequence[Any]) -> list[Any]:
    """Apply the derivative of a call; return the tangents of its differentiable outputs."""
    return linear_p.bind(*_unify_varying_axes(operands), function=function)


def _unify_varying_axes(xs: Sequence[Any]) -> list[Any]:
    """Return `xs`, all varying over the same axes of a mesh, as `jax.shard_map` requires."""
    axes = [varying_axes(x) for x in xs]
    union = frozenset[Any]().union(*axes)
    return [
        x if x_axes == union else jax.lax.pcast(x, tuple(union - x_axes), to="varying")
        for x, x_axes in zip(xs, axes, strict=True)
    ]
