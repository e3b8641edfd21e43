"""JAX in tests."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bridge._arrays.jax import conjugate_all
from bridge._arrays.jax.upstream.modes import x64_mode
from bridge._arrays.numpy import narrow_checked
from bridge._core.errors import NoRuleError
from bridge._core.spec import NARROW_INTEGERS
from bridge._testing.backend import Backend

_LACKS = (
    "custom_vjp function",
    "Reverse-mode differentiation does not work",
    "do not support JVP",
    "Differentiation rule for ",
    "Transpose rule ",
    "Batching rule for ",
)


class JaxBackend(Backend):
    """JAX by its own transformations."""

    name: ClassVar[str] = "jax"
    conjugates_gradients: ClassVar[bool] = True

    @property
    def xp(self) -> Any:
        """`jax.numpy`, which has the names of the standard."""
        return jnp

    def grad(self, fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
        """Return the function that computes the gradient of `fn`, whose result is one number."""
        return jax.grad(fn, argnums=argnums)

    def vjp(self, fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> Any:
        """Return the gradients of `fn` at `primals` for cotangents like its result."""
        return jax.vjp(fn, *primals)[1](cotangents)

    def jvp(self, fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """Return the tangent of the result of `fn` at `primals`, for tangents like these."""
        return jax.jvp(fn, tuple(primals), tuple(tangents))[1]

    def vmap(self, fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Return `fn` for a batch of examples."""
        return jax.vmap(fn, in_axes=in_axes)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, compiled by XLA."""
        return jax.jit(fn)

    def double_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which JAX counts in 64 bits."""
        return jax.enable_x64(new_val=True)

    def copy_to_host(self, x: Any) -> Any:
        """Return an array of JAX as a NumPy array."""
        is_ours = isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
        return np.array(x) if is_ours else super().copy_to_host(x)

    def narrow(self, host: Any) -> Any:
        """Return integers with 32 bits, after a check of their range, while JAX has no others."""
        if x64_mode() or host.dtype.name not in NARROW_INTEGERS:
            return host
        return narrow_checked(host, np.dtype(NARROW_INTEGERS[host.dtype.name]), "an argument")

    def turn_convention(self, xs: Sequence[Any]) -> tuple[Any, ...]:
        """Conjugate: JAX takes and returns the conjugates of torch's cotangents and gradients."""
        return conjugate_all(xs)

    def most_accurate(self) -> str:
        """Return float64 if JAX counts in it now."""
        return "float64" if x64_mode() else "float32"

    def is_lack(self, error: Exception) -> bool:
        """Return True if `error` says that there is no such derivative, or no batches."""
        kinds = (TypeError, ValueError, NotImplementedError)
        says_so = isinstance(error, kinds) and any(text in str(error) for text in _LACKS)
        return says_so or isinstance(error, NoRuleError | jax.errors.ConcretizationTypeError)


BACKEND = JaxBackend
