"""How a test speaks each framework; the only test module that names all of them."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import bridge
from bridge import _registry


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
        accuracy: How close its functions of float64 come to those of others.
        steps: How to take finite differences of them.
        lacks: What its functions cannot do, and why.
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
    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    steps: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def holds(self, value: Any) -> bool:
        """Whether it has the dtype of this name or array; so it is with everything else."""
        name = str(getattr(value, "dtype", value)).removeprefix("torch.")
        if not re.fullmatch(r"bool|(u?int|b?float|complex)\d\w*", name):
            return True
        with self.wide():
            return _registry.target_arrays(self.name).supports_dtype(name)


def bridged(pair: tuple[str, str], fn: Callable, **options: Any) -> Callable:
    """`fn` of the first framework of a pair, callable from the second."""
    return getattr(bridge, "2".join(pair))(fn, **options)


def assert_same(kit: Kit, found: Any, expected: Any) -> None:
    """Values, shapes and dtypes agree, to what float32 gives."""
    found, expected = kit.numpy(found), kit.numpy(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, strict=True)


def kit(name: str) -> Kit:
    """The kit of one framework; skips the test where it is not installed."""
    return {"torch": _torch, "jax": _jax, "mlx": _mlx}[name]()


def _transforms(name: str) -> dict[str, Callable]:
    """The transformations of a framework, as users test with them."""
    backend = bridge.testing.backend(name)
    return {key: getattr(backend, key) for key in ("grad", "vjp", "jvp", "vmap", "compile")}


def _torch() -> Kit:
    torch = pytest.importorskip("torch")

    return Kit(
        name="torch",
        xp=torch,
        array=lambda x: torch.tensor(x),
        numpy=lambda x: x.numpy(force=True),
        **_transforms("torch"),
    )


def _jax() -> Kit:
    jax = pytest.importorskip("jax")
    return Kit(
        name="jax",
        xp=jax.numpy,
        array=jax.numpy.asarray,
        numpy=np.asarray,
        **_transforms("jax"),
        wide=lambda: jax.enable_x64(True),
    )


def _mlx() -> Kit:
    mx = pytest.importorskip("mlx.core")

    return Kit(
        name="mlx",
        xp=mx,
        array=lambda x: mx.array(x, dtype=getattr(mx, np.asarray(x).dtype.name, None)),
        numpy=np.array,
        **_transforms("mlx"),
        # Functions of float64 are those of float32: mlx#3047.
        accuracy={"rtol": 1e-5, "atol": 1e-5},
        # A second backward pass runs another program, which rounds otherwise.
        steps={"eps": 1e-2, "atol": 1e-3, "rtol": 1e-2, "nondet_tol": 1e-5},
        lacks={
            "one trace": "MLX runs a function anew on each call, to build its graph",
            "other sizes": "a graph of MLX is for the sizes that it was made for",
            "complex128": "MLX has no complex128",
        },
    )
