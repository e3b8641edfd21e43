"""The conversions of arrays at the boundary of a JAX function, 64-bit integers above all."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge._arrays.jax import ARRAYS as ARRAYS, NARROW, allow_transfers
from bridge._core.errors import RangeError
from bridge._core.op import Specs
from bridge._core.spec import NARROW_INTEGERS

# NOTE [integers without 64-bit mode]
# torch's integers have 64 bits by default, JAX's have 32. A 64-bit integer primal is narrowed if
# its values fit, and refused if not. Where one was narrowed, the 32-bit integers among the outputs
# are widened, so that an index that is passed through keeps its dtype.
_WIDENED = {narrow: wide for wide, narrow in NARROW_INTEGERS.items()}


def narrowed_positions(primals: Specs, *, x64: bool) -> list[int]:
    """Return the positions of the primals whose values are narrowed before the call."""
    if x64:
        return []
    pairs = enumerate(primals)
    return [i for i, s in pairs if s.dtype in NARROW_INTEGERS and not s.weak_type]


def _widens(primals: Specs, *, x64: bool) -> bool:
    """Return True if 32-bit integers among the outputs are widened."""
    return any(not primals[i].follows_mode for i in narrowed_positions(primals, x64=x64))


def external_specs(outputs: Specs, primals: Specs, *, x64: bool) -> Specs:
    """Return the specs of `outputs` as the caller sees them."""
    if not _widens(primals, x64=x64):
        return outputs
    return tuple(dataclasses.replace(s, dtype=_WIDENED.get(s.dtype, s.dtype)) for s in outputs)


def with_narrowed_integers(
    call: Callable[..., Any],
    primals: Specs,
    *,
    x64: bool,
    widened_count: int | None = None,
    labels: Sequence[str] = (),
) -> Callable[..., Any]:
    """Return `call` so that it narrows primals and widens outputs.

    Its first `widened_count` outputs are widened, by default all; the others are residuals.
    """
    argnums = narrowed_positions(primals, x64=x64)
    if not argnums:
        return call
    widens = _widens(primals, x64=x64)

    def narrow_and_call(*xs: Any) -> list[Any]:
        narrowed = list(xs)
        with jax.enable_x64(new_val=True):  # so that values are compared in 64 bits
            for i in argnums:
                label = labels[i] if i < len(labels) else "an argument"
                narrowed[i] = _narrow(xs[i], primals[i].dtype, label)
        outputs = list(call(*narrowed))
        if not widens:
            return outputs
        with jax.enable_x64(new_val=True):
            widened = [_widen(y) for y in outputs[:widened_count]]
        return [*widened, *outputs[len(widened) :]]

    return narrow_and_call


def _narrow(x: Any, wide_dtype: str, label: str) -> Any:
    """Return `x` with 32-bit integers; raise if its values do not fit."""
    narrow = x.astype(NARROW[wide_dtype])
    if (narrow != x).any():
        raise RangeError(
            f"{label}, {wide_dtype}{list(x.shape)}, has values that do not fit into "
            f"{NARROW[wide_dtype]}, in which JAX computes here. Pass x64=True for 64 bits."
        )
    return narrow


def _widen(y: jax.Array) -> jax.Array:
    return y.astype(_WIDENED[str(y.dtype)]) if str(y.dtype) in _WIDENED else y


def without_shared_memory(fn: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """Return `fn` so that it copies its arguments and results: safe without `jax.jit`."""

    def call(*xs: Any) -> list[Any]:
        with allow_transfers():
            arguments = [jnp.array(x) if hasattr(x, "shape") else x for x in xs]
        outputs = [jnp.array(y) for y in fn(*arguments)]
        return [ARRAYS.export(y, dense=True, copy=True, gathered=False) for y in outputs]

    return call
