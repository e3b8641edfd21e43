"""The array backend of JAX."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import SingleDeviceSharding

from bridge._arrays.jax import addresses
from bridge._arrays.jax.devices import check_on_one_device, find_device, gather, import_buffer
from bridge._arrays.jax.sharding import SHARDS
from bridge._arrays.jax.upstream.memory import dlpack_capsule
from bridge._arrays.jax.upstream.modes import (
    DEFAULT_DEVICE,
    allow_transfers,
    check_not_forked,
    fork_state,
    x64_mode,
)
from bridge._arrays.numpy import HostCapsule, as_dlpack_dtype
from bridge._core.errors import ArgumentError, CopyError, NoValuesError
from bridge._core.op import Arrays, Specs
from bridge._core.pytree import PytreeNodeFunctions
from bridge._core.spec import NARROW_INTEGERS, ArraySpec

_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
}
NARROW = {**NARROW_INTEGERS, "float64": "float32", "complex128": "complex64"}


class JaxArrays:
    """JAX's arrays."""

    name = "jax"
    scalar_types = ()
    rounding_advice = ""
    imports_only_contiguous = True
    compute_context = None
    copy_or_raise = None
    shards = SHARDS
    adopting_copy_reason = addresses.ADOPTING_COPY_REASON
    address = staticmethod(addresses.address)
    example = staticmethod(addresses.example)
    borrowing_copy_reason = staticmethod(addresses.borrowing_copy_reason)

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an array or a tracer of JAX."""
        return isinstance(x, jax.Array)

    def spec(self, x: Any) -> ArraySpec:
        """Return shape, dtype and weak type; JAX manages devices itself."""
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            _extended[str(x.dtype)] = x.dtype
        return ArraySpec(tuple(x.shape), str(x.dtype), weak_type=getattr(x, "weak_type", False))

    def signature(self, x: Any) -> Hashable:
        """Return shape, dtype and weak type; raise if `x` is a tracer."""
        if isinstance(x, Tracer):
            raise NoValuesError(
                f"it is a JAX tracer ({self.spec(x)}), and JAX cannot trace a bridged function. "
                "Within jax.jit, jax.grad and the like, call the JAX function itself."
            )
        return x.shape, x.dtype, getattr(x, "weak_type", False)

    def unwrap_key(self, x: Any) -> tuple[Any, str] | None:
        """Return the data of a typed PRNG key and its implementation; None for other arrays."""
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return None
        return jax.random.key_data(x), str(jax.random.key_impl(x))

    def wrap_key(self, x: Any, impl: str) -> Any:
        """Make the key of this data, a buffer, whose integers may have been widened."""
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(x), "uint32"), impl=impl)

    def target_signature(self, x: Any) -> Hashable:
        """Return shape and dtype."""
        return x.shape, x.dtype

    def target_spec(self, x: Any) -> ArraySpec:
        """Return shape and dtype, with the device that JAX compiles for, as tracers have none."""
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            raise ArgumentError(
                f"it is a JAX array of dtype {x.dtype}, which no other framework supports. For a "
                "PRNG key, pass `jax.random.key_data(key)`, or `rng=key` for the random numbers of "
                "the function."
            )
        device = "cuda:0" if jax.default_backend() in ("gpu", "cuda") else "cpu"
        return dataclasses.replace(self.spec(x), weak_type=False, device=device)

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function from buffers to arrays; `jax.jit` takes those of the host as is."""
        host = device == "cpu" and jax.default_backend() == "cpu"

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            if not fork_state.jax_used:
                check_not_forked()
            default = DEFAULT_DEVICE.value
            # A program for several devices refuses arrays that are committed to one.
            if host and (default is None or getattr(default, "platform", default) == "cpu"):
                return buffers
            # In 32-bit mode JAX would narrow 64-bit values.
            with jax.enable_x64(new_val=True), allow_transfers():
                return [import_buffer(x, device) for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function to capsules of the host, after waiting; elsewhere to arrays."""
        if device != "cpu":
            return lambda outputs: [gather(y, device) for y in outputs]
        # All devices of the host have one memory, so an array on any single one need not move.
        host_sharding_type = SingleDeviceSharding if jax.default_backend() == "cpu" else None
        return functools.partial(_make_capsules, host_sharding_type=host_sharding_type)

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Return the function that puts arrays, which have `__dlpack__`, on `device`."""

        def lend(xs: Sequence[Any]) -> Sequence[Any]:
            check_not_forked()
            return [lend_one(x) if self.is_array(x) else x for x in xs]

        def lend_one(x: Any) -> Any:
            checked = self.export(x, dense=False, copy=None, gathered=False)
            return jax.device_put(checked, find_device(device))

        return lend

    def lending_copy_reason(self, x: Any) -> str:
        """Return `""`: XLA lends the memory of arguments."""
        del x
        return ""

    def export_detached(self, x: Any) -> Any:
        """Return `x` on one device; JAX arrays export their values themselves."""
        return gather(self.export(x, dense=True, copy=None, gathered=False))

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Return the function from buffers to arrays over their memory, copied if not aligned."""
        return _adopt

    def supports_dtype(self, dtype: str) -> bool:
        """Return True if JAX has this dtype in its current mode, or narrows it."""
        return dtype in _DTYPES and (x64_mode() or dtype not in NARROW or dtype in NARROW_INTEGERS)

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Say why there are no results of this dtype, and what to write instead."""
        if dtype not in NARROW:
            return "which JAX does not support. Convert it in the function, to another dtype."
        return (
            f"which has no counterpart while JAX is in 32-bit mode. Convert it to {NARROW[dtype]} "
            'in the function, or call it in 64-bit mode: jax.config.update("jax_enable_x64", True),'
            " or `with jax.enable_x64(True):`."
        )

    def check_dtype(self, dtype: str) -> None:
        """Do nothing: JAX tells about unsupported dtypes when its functions are called."""

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Make specs of JAX, since it has no arrays without values."""
        return tuple(shape_dtype_struct(_check_width(spec), x64=x64_mode()) for spec in specs)

    def export(self, x: Any, *, dense: bool, copy: bool | None, gathered: bool = True) -> Any:
        """Return `x`; raise for a tracer, a PRNG key, or where it is not gathered on a device."""
        if isinstance(x, Tracer):
            raise NoValuesError(f"a JAX tracer ({self.spec(x)}) has no values to convert.")
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            raise ArgumentError(
                f"a JAX array of dtype {x.dtype} has no counterpart. "
                "For a PRNG key, convert `jax.random.key_data(key)`."
            )
        if gathered:
            check_on_one_device(x)
        return x

    def convert(self, x: Any, *, copy: bool | None) -> jax.Array:
        """Make an array over the memory of `x`, or a copy; 64-bit values need 64-bit mode."""
        dtype = str(x.dtype).removeprefix("torch.")
        if dtype in NARROW and not x64_mode():
            raise ArgumentError(
                f"{dtype} has no counterpart while JAX is in 32-bit mode, and would be narrowed "
                f"to {NARROW[dtype]}. Convert it yourself, or enable 64-bit mode: "
                'jax.config.update("jax_enable_x64", True), or `with jax.enable_x64(True):`.'
            )
        if isinstance(x, jax.Array):
            return jnp.array(x)
        buffer, low = as_dlpack_dtype(x) if isinstance(x, np.ndarray) else (x, None)
        try:
            # In jax 0.10 from_dlpack(copy=True) shares the memory nevertheless.
            y = jax.dlpack.from_dlpack(buffer, copy=None if copy else copy)
        except (ValueError, RuntimeError) as error:  # memory that is not aligned to 64 bytes
            if copy is None or copy:
                raise
            raise CopyError(f"copy=False, but JAX cannot share its memory: {error}") from error
        y = y.view(low) if low else y
        return jax.block_until_ready(jnp.array(y) if copy else y)

    def pytree_node_functions(self, x: Any) -> PytreeNodeFunctions | None:
        """Return how to flatten a class registered with `jax.tree_util`, such as Flax structs."""
        if jax.tree_util.all_leaves([x]):  # unlike flattening, it does not warn of generators
            return None

        def flatten(node: Any) -> tuple[list[Any], Any]:
            return jax.tree.flatten(node, is_leaf=lambda child: child is not node)

        def unflatten(structure: Any, children: Iterable[Any]) -> Any:
            return jax.tree.unflatten(structure, children)

        return flatten, unflatten


# Dtypes of PRNG keys that were seen, by name: JAX cannot look them up by name.
_extended: dict[str, Any] = {}


def _adopt(buffers: Sequence[Any]) -> Arrays:
    owners = [x if hasattr(x, "__dlpack__") else HostCapsule(x) for x in buffers]
    with jax.enable_x64(new_val=True):  # else 64-bit values would be narrowed
        arrays = tuple(jax.dlpack.from_dlpack(x) for x in owners)
    return tuple(jax.block_until_ready(arrays))


def _check_width(spec: ArraySpec) -> ArraySpec:
    """Return the spec of an array without values; raise if JAX would narrow its dtype now."""
    if spec.dtype in NARROW and not x64_mode():
        raise ArgumentError(
            f"a meta tensor is {spec}, and JAX is in 32-bit mode. Convert it yourself, or enable "
            '64-bit mode: jax.config.update("jax_enable_x64", True).'
        )
    return spec


def shape_dtype_struct(spec: ArraySpec, *, x64: bool) -> jax.ShapeDtypeStruct:
    """Return the abstract argument that `jax.make_jaxpr` takes for this spec."""
    name = spec.dtype if x64 else NARROW.get(spec.dtype, spec.dtype)
    dtype = _extended.get(name) or jnp.dtype(name)
    return jax.ShapeDtypeStruct(spec.shape, dtype, weak_type=spec.weak_type)


def _make_capsules(outputs: Sequence[Any], host_sharding_type: type | None) -> Sequence[Any]:
    capsules: list[Any] = []
    try:
        for y in outputs:
            on_host = y if type(y.sharding) is host_sharding_type else gather(y, "cpu")
            capsules.append(dlpack_capsule(on_host))
    except (RuntimeError, AttributeError) as error:  # a tracer has no sharding and no buffer
        if not any(isinstance(y, Tracer) for y in outputs):
            raise
        raise NoValuesError(
            "a bridged function was called while JAX traces a function, so its result has no "
            "values yet. Call the JAX function itself there."
        ) from error
    return capsules


def conjugate_all(xs: Iterable[Any]) -> tuple[Any, ...]:
    """Convert complex cotangents between JAX's convention and that of torch and MLX."""
    return tuple(jnp.conj(x) if jnp.iscomplexobj(x) else x for x in xs)


ARRAYS = JaxArrays()
