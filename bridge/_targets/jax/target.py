"""What JAX shows to bridge as a place where functions are called."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from bridge._arrays.jax import ARRAYS as ARRAYS, NARROW, check_not_forked, x64_mode
from bridge._core.errors import ArgumentError, DeviceError, NoRuleError
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Executor, ExportKey
from bridge._core.spec import NARROW_INTEGERS
from bridge._targets.jax import primitives as primitives  # registers the rules of calls
from bridge._targets.jax.binding import bind_call
from bridge._targets.jax.calls import Call, CallSite, Programs


class JaxTarget:
    """Call sites in JAX, whose tracers know shapes and dtypes: nothing has to be staged."""

    def make_native(
        self, op: Op, runner: Executor, origin: ExportKey | None
    ) -> Callable[..., Arrays]:
        """`op` as a function of JAX arrays under every transformation of JAX."""
        if runner.changes_device and not op.graph:
            raise DeviceError(
                f"{op.name} is to compute on another device than that of its arguments, and XLA "
                "lends it their memory where it is. Leave out device=, or move the arguments with "
                "jax.device_put."
            )
        programs = Programs()
        site = CallSite(runner.execute_into, weakref.ref(programs), op, origin)
        return functools.partial(_call, op, site, programs)

    def rng_seed(self, key: Any) -> Any:
        """The data of a key, of either style."""
        try:
            data = jnp.asarray(key)
        except TypeError as error:
            raise ArgumentError(
                f"rng is of the class {type(key).__name__}. Pass a key, as jax.random.key(0)."
            ) from error
        if jnp.issubdtype(data.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(data)
        if data.ndim > 1:
            raise ArgumentError(
                f"rng is an array of keys, with data of shape {list(data.shape)}. Pass one key, or "
                "map the call over them by jax.vmap."
            )
        return data

    def fresh_seed(self) -> None:
        """Nothing: JAX may run a call once for several, or again."""
        return

    def suspend_transforms(self) -> contextlib.AbstractContextManager[None]:
        """Nothing: JAX transforms nothing but what depends on its tracers."""
        return contextlib.nullcontext()

    def is_compiling(self) -> bool:
        """Never: JAX runs the code that it traces."""
        return False

    def is_staged(self, x: Any) -> bool:
        """Never: a tracer is an array like others."""
        return False

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[Any],
        *,
        order: int,
        modes: Sequence[str],
        **how: Any,
    ) -> None:
        """Raise `AssertionError` unless the derivatives of `fn` agree with finite differences."""

        def on_arrays(*values: Any) -> Arrays:  # some that are checked are those of NumPy
            return fn(*map(jnp.asarray, values))

        try:
            check_grads(on_arrays, tuple(xs), order, modes=tuple(modes), **how)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            raise NoRuleError(str(error)) from error

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[Any]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """The results, and what `jax.vjp` makes of their cotangents."""
        outputs, pull = jax.vjp(fn, *xs)
        return outputs, lambda cotangents: pull(tuple(cotangents))


def _call(op: Op, site: CallSite, _programs: Programs, *xs: Any) -> Arrays:
    check_not_forked()
    wide = () if x64_mode() else _narrowed_outputs(op)
    arrays = [x if isinstance(x, jax.Array) else _as_array(x) for x in xs]
    outputs = bind_call(Call(op, site, len(arrays)), arrays)
    for i in wide:
        narrow = op.derive("narrow_integers", i)
        (outputs[i],) = bind_call(Call(narrow, site, 1), [outputs[i]])
    return tuple(outputs)


def _as_array(x: Any) -> jax.Array:
    """A constant: a number, or an array of another framework."""
    return ARRAYS.convert(x, copy=None) if hasattr(x, "__dlpack__") else jnp.asarray(x)


def _narrowed_outputs(op: Op) -> Positions:
    """The results that JAX has in 32 bits only, in its 32-bit mode; raises for floats."""
    wide = [(i, spec) for i, spec in enumerate(op.output_specs()) if spec.dtype in NARROW]
    for i, spec in wide:
        if spec.dtype not in NARROW_INTEGERS or op.graph:  # compiled, nothing checks a range
            raise ArgumentError(
                f"result {i} of {op.name} is {spec}, {ARRAYS.unsupported_dtype_advice(spec.dtype)}"
            )
    return tuple(i for i, _ in wide)


TARGET = JaxTarget()
