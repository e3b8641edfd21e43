"""How a test speaks each framework; the only test module that names all of them."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Kit:
    """One framework, as far as a test in every direction needs it.

    Attributes:
        name: As the registry spells it.
        xp: Its array namespace, with the names NumPy, torch, jax.numpy and mlx share.
        array: NumPy array to native array, dtype kept.
        numpy: Native array to NumPy array.
        grad: `(fn, argnums=0) -> gradient function` of a scalar function.
        vjp: `(fn, primals, cotangent) -> gradients`, a tuple.
        jvp: `(fn, primals, tangents) -> output tangent`.
        vmap: `(fn, in_axes=0) -> batched function`.
        compile: `fn -> compiled function`, which refuses what it cannot compile.
        wide: A context in which its integers and floats may have 64 bits.
    """

    name: str
    xp: Any
    array: Callable[[np.ndarray], Any]
    numpy: Callable[[Any], np.ndarray]
    grad: Callable[..., Callable]
    vjp: Callable[..., tuple]
    jvp: Callable[..., Any]
    vmap: Callable[..., Callable]
    compile: Callable[[Callable], Callable]
    wide: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


def kit(name: str) -> Kit:
    """The kit of one framework; skips the test where it is not installed."""
    return {"torch": _torch, "jax": _jax, "mlx": _mlx}[name]()


def _torch() -> Kit:
    torch = pytest.importorskip("torch")

    def grad(fn, argnums=0):
        return torch.func.grad(fn, argnums=argnums)

    return Kit(
        name="torch",
        xp=torch,
        array=lambda x: torch.tensor(x),
        numpy=lambda x: x.numpy(force=True),
        grad=grad,
        vjp=lambda fn, primals, cotangent: torch.func.vjp(fn, *primals)[1](cotangent),
        jvp=lambda fn, primals, tangents: torch.func.jvp(fn, primals, tangents)[1],
        vmap=lambda fn, in_axes=0: torch.func.vmap(fn, in_dims=in_axes),
        compile=lambda fn: torch.compile(fn, fullgraph=True, backend="aot_eager"),
    )


def _jax() -> Kit:
    jax = pytest.importorskip("jax")
    return Kit(
        name="jax",
        xp=jax.numpy,
        array=jax.numpy.asarray,
        numpy=np.asarray,
        grad=jax.grad,
        vjp=lambda fn, primals, cotangent: jax.vjp(fn, *primals)[1](cotangent),
        jvp=lambda fn, primals, tangents: jax.jvp(fn, tuple(primals), tuple(tangents))[1],
        vmap=lambda fn, in_axes=0: jax.vmap(fn, in_axes=in_axes),
        compile=jax.jit,
        wide=lambda: jax.enable_x64(True),
    )


def _mlx() -> Kit:
    mx = pytest.importorskip("mlx.core")

    def one(fn):
        return lambda *xs: [fn(*xs)]

    return Kit(
        name="mlx",
        xp=mx,
        array=mx.array,
        numpy=np.array,
        grad=mx.grad,
        vjp=lambda fn, primals, ct: tuple(mx.vjp(one(fn), list(primals), [ct])[1]),
        jvp=lambda fn, primals, tangents: mx.jvp(one(fn), list(primals), list(tangents))[1][0],
        vmap=lambda fn, in_axes=0: mx.vmap(fn, in_axes=in_axes),
        compile=mx.compile,
    )
