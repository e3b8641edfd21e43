"""JAX as a target: call sites for functions of other frameworks."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

from bridge._arrays.jax import (
    ARRAYS as ARRAYS,
    NARROW,
    check_not_forked,
    free_to_move,
    x64_mode,
)
from bridge._core.errors import ArgumentError, DeviceError, NoRuleError
from bridge._core.function_protocols import ExportKey
from bridge._core.op import Arrays, Op, Positions
from bridge._core.protocols import Executor
from bridge._core.spec import NARROW_INTEGERS
from bridge._targets.jax import primitives as primitives  # registers the rules of calls
from bridge._targets.jax.binding import bind_call
from bridge._targets.jax.calls import Call, Callee, Programs
from bridge._targets.jax.modules import make_view, watch_in_trees
from bridge._targets.jax.saving_choice import choose_saving


class JaxTarget:
    """Call sites in JAX, whose tracers have shapes and dtypes, so that calls are not staged."""

    execute_lowered = make_module = copy_before_write = None
    make_view = staticmethod(make_view)
    choose_saving = staticmethod(choose_saving)
    computing_now = staticmethod(jax.ensure_compile_time_eval)
    watch_in_trees = staticmethod(watch_in_trees)

    def make_native(
        self, op: Op, runner: Executor, origin: ExportKey | None
    ) -> Callable[..., Arrays]:
        """Make a function of JAX arrays that executes `op`, under every transformation of JAX."""
        if runner.changes_device and not op.traits.graph:
            raise DeviceError(
                f"{op.name} is to compute on another device than that of its arguments, but XLA "
                "lends it the memory of its arguments. Leave out device=, or move the arguments "
                "with jax.device_put."
            )
        programs = Programs()
        callee = Callee(runner.execute_into, weakref.ref(programs), op, origin)
        return functools.partial(_call, op, callee, programs)

    def key_data(self, key: Any, *, batch_count: int = 0) -> Any:
        """Return the data of a key, of the new or the old style."""
        try:
            data = jnp.asarray(key)
        except TypeError as error:
            raise ArgumentError(
                f"rng is of the class {type(key).__name__}. Pass a key, as jax.random.key(0)."
            ) from error
        if jnp.issubdtype(data.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(data)
        if data.ndim > 1 + batch_count:
            raise ArgumentError(
                f"rng is an array of keys, with data of shape {list(data.shape)}. Pass one key, or "
                "map the call over them by jax.vmap."
            )
        return data

    def fresh_seed(
        self,
        device: str,
        sizes: Sequence[int] = (),
        *,
        of_module: bool = False,
        drawn: bool = True,
    ) -> None:
        """Return None: JAX may execute one call for several, or execute it again."""
        return

    def suspend_transforms(self) -> contextlib.AbstractContextManager[None]:
        """Do nothing: JAX only transforms what depends on its tracers."""
        return contextlib.nullcontext()

    def is_between_compiled_parts(self) -> bool:
        """Return False: no compiler reads Python here."""
        return False

    def needs_staging(self, x: Any) -> bool:
        """Return False: a tracer is treated as an array."""
        return False

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[Any],
        *,
        order: int,
        modes: Sequence[str],
        **options: Any,
    ) -> None:
        """Raise `AssertionError` unless the derivatives of `fn` agree with finite differences."""

        def call_on_jax_arrays(*values: Any) -> Arrays:  # check_grads passes NumPy arrays too
            return fn(*map(jnp.asarray, values))

        try:
            check_grads(call_on_jax_arrays, tuple(xs), order, modes=tuple(modes), **options)
        except TypeError as error:
            if "custom_vjp" not in str(error):
                raise
            raise NoRuleError(str(error)) from error

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[Any]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """Return the results of `fn`, and the function from cotangents to gradients."""
        outputs, pull = jax.vjp(fn, *xs)
        return outputs, lambda cotangents: pull(tuple(cotangents))


def _call(op: Op, callee: Callee, _programs: Programs, *xs: Any) -> Arrays:
    check_not_forked()
    narrowed = () if x64_mode() else _narrowed_outputs(op)
    arrays = [x if isinstance(x, jax.Array) else _as_array(x) for x in xs]
    outputs = bind_call(Call(op, callee, len(arrays)), arrays)
    for i in narrowed:
        narrow = op.derive("narrow_integers", i)
        (outputs[i],) = bind_call(Call(narrow, callee, 1), [outputs[i]])
    return tuple(outputs)


def _as_array(x: Any) -> jax.Array:
    """Convert a constant: a number, or an array of another framework."""
    if hasattr(x, "__dlpack__"):
        return free_to_move(ARRAYS.convert(x, copy=None))
    return jnp.asarray(x)


def _narrowed_outputs(op: Op) -> Positions:
    """Return positions of results that the 32-bit mode of JAX narrows; raise if one cannot be."""
    narrowed = [(i, spec) for i, spec in enumerate(op.output_specs()) if spec.dtype in NARROW]
    for i, spec in narrowed:
        # In compiled code nothing checks that integers fit.
        if spec.dtype not in NARROW_INTEGERS or op.traits.graph:
            raise ArgumentError(
                f"result {i} of {op.name} is {spec}, {ARRAYS.unsupported_dtype_advice(spec.dtype)}"
            )
    return tuple(i for i, _ in narrowed)


TARGET = JaxTarget()
