"""The transformations of each framework, under the same names."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mlx.core as mx
import torch

import bridge

TITLES = {"torch": "torch", "jax": "JAX", "mlx": "MLX"}
DIRECTIONS = [(source, target) for target in TITLES for source in TITLES if source != target]


@dataclasses.dataclass(frozen=True)
class Framework:
    """What the tables ask of one framework.

    Attributes:
        array: A list of numbers as an array of single precision.
        grad: `fn -> gradient` of a scalar function of one array.
        jvp: `(fn, x, tangent) -> tangent of the result`.
        vmap: `fn -> batched fn`.
        compile: `fn -> compiled fn`.
    """

    array: Callable[[list[float]], Any]
    grad: Callable[[Callable[..., Any]], Callable[..., Any]]
    jvp: Callable[[Callable[..., Any], Any, Any], Any]
    vmap: Callable[[Callable[..., Any]], Callable[..., Any]]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]


FRAMEWORKS = {
    "torch": Framework(
        array=torch.tensor,
        grad=torch.func.grad,
        jvp=lambda fn, x, tangent: torch.func.jvp(fn, (x,), (tangent,))[1],
        vmap=torch.func.vmap,
        compile=lambda fn: torch.compile(fn, fullgraph=True, backend="aot_eager"),
    ),
    "jax": Framework(
        array=jnp.array,
        grad=jax.grad,
        jvp=lambda fn, x, tangent: jax.jvp(fn, (x,), (tangent,))[1],
        vmap=jax.vmap,
        compile=jax.jit,
    ),
    "mlx": Framework(
        array=mx.array,
        grad=mx.grad,
        jvp=lambda fn, x, tangent: mx.jvp(lambda x: [fn(x)], [x], [tangent])[1][0],
        vmap=mx.vmap,
        compile=mx.compile,
    ),
}


def bridged(source: str, target: str, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` of `source`, called from `target`."""
    return getattr(bridge, f"{source}2{target}")(fn)


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |\n"


def head(*cells: str) -> str:
    """The first two lines of a table."""
    return row(*cells) + row(*("---" for _ in cells))
