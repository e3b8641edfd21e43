"""What happens to arrays where they enter and leave a function of JAX."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge._arrays.jax import ARRAYS as ARRAYS, NARROW, allow_transfers
from bridge._core.errors import RangeError
from bridge._core.op import Specs
from bridge._sources.jax.environment import Environment

# NOTE [integers without 64-bit mode]
# torch's integers are 64 bits wide by default, JAX's 32. A 64-bit integer argument is narrowed
# if its values fit, else refused; where one was narrowed, the 32-bit integers among the results
# are widened, so that an index comes back as it went in.
_WIDE = {"int32": "int64", "uint32": "uint64"}


def narrowed_positions(primals: Specs, *, x64: bool) -> list[int]:
    """Positions of the primals whose values are narrowed on the way in."""
    if x64:
        return []
    wide = _WIDE.values()
    return [i for i, spec in enumerate(primals) if spec.dtype in wide and not spec.weak_type]


def external_specs(outputs: Specs, primals: Specs, *, x64: bool) -> Specs:
    """What the caller sees of `outputs`."""
    if not narrowed_positions(primals, x64=x64):
        return outputs
    return tuple(dataclasses.replace(s, dtype=_WIDE.get(s.dtype, s.dtype)) for s in outputs)


def with_x64_boundary(
    call: Callable[..., Any],
    primals: Specs,
    *,
    mode: Environment,
    results: int | None = None,
    labels: Sequence[str] = (),
) -> Callable[..., Any]:
    """`call` in its mode; `results` of its outputs are the caller's (all), others residuals."""
    call = mode.run_with(call)
    narrow = narrowed_positions(primals, x64=mode.x64)
    if not narrow:
        return call

    def crossing(*xs: Any) -> list[Any]:
        inside = list(xs)
        with jax.enable_x64(new_val=True):
            for i in narrow:
                label = labels[i] if i < len(labels) else "an argument"
                inside[i] = _narrow(xs[i], primals[i].dtype, label)
        outputs = list(call(*inside))
        with jax.enable_x64(new_val=True):
            widened = [_widen(y) for y in outputs[:results]]
        return [*widened, *outputs[len(widened) :]]

    return crossing


def _narrow(x: Any, dtype: str, label: str) -> Any:
    small = x.astype(NARROW[dtype])
    if (small != x).any():
        raise RangeError(
            f"{label}, {dtype}{list(x.shape)}, has values that do not fit into {NARROW[dtype]}, "
            "in which JAX computes here. Pass x64=True to compute in 64 bits."
        )
    return small


def _widen(y: jax.Array) -> jax.Array:
    return y.astype(_WIDE[str(y.dtype)]) if str(y.dtype) in _WIDE else y


def without_aliasing(fn: Callable[..., Any]) -> Callable[..., Sequence[Any]]:
    """`fn` on copies of its arguments, with copies of its results: safe without `jax.jit`."""

    def call(*xs: Any) -> list[Any]:
        with allow_transfers():
            arguments = [jnp.array(x) if hasattr(x, "shape") else x for x in xs]
        return [ARRAYS.export(jnp.array(y), dense=True, copy=True) for y in fn(*arguments)]

    return call
