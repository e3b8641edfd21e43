"""What JAX shows to bridge as a kind of arrays."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import SingleDeviceSharding

from bridge._arrays.jax.devices import describe_devices, find_device, gather, put_on_device
from bridge._arrays.jax.modes import CONFIG, allow_transfers, check_not_forked, x64_mode
from bridge._arrays.numpy import HostCapsule, as_dlpack_dtype
from bridge._core.array_protocols import PytreeNode
from bridge._core.errors import ArgumentError, CopyError, NoValuesError
from bridge._core.op import Arrays, Specs
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
    requires_contiguous = True
    compute_context = None
    check_not_traced = None

    def is_array(self, x: Any) -> bool:
        """Whether `x` is an array or a tracer of one."""
        return isinstance(x, jax.Array)

    def spec(self, x: Any) -> ArraySpec:
        """Shape, dtype and weak type; where it lives is JAX's affair."""
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            _extended[str(x.dtype)] = x.dtype
        return ArraySpec(tuple(x.shape), str(x.dtype), weak_type=getattr(x, "weak_type", False))

    def signature(self, x: Any) -> Hashable:
        """Shape, dtype and weak type; a tracer of a transformation around the call is refused."""
        if isinstance(x, Tracer):
            raise NoValuesError(
                f"it is a JAX tracer ({self.spec(x)}), and JAX cannot look into a bridged function."
                " Within jax.jit, jax.grad and the like, call the function of JAX itself."
            )
        return x.shape, x.dtype, getattr(x, "weak_type", False)

    def unwrap_key(self, x: Any) -> tuple[Any, str] | None:
        """The data of a typed PRNG key, and what is made of it."""
        if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return None
        return jax.random.key_data(x), str(jax.random.key_impl(x))

    def wrap_key(self, x: Any, impl: str) -> Any:
        """The key of this data, a buffer, which may have been widened as other integers are."""
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(x), "uint32"), impl=impl)

    def target_signature(self, x: Any) -> Hashable:
        """Shape and dtype."""
        return x.shape, x.dtype

    def target_spec(self, x: Any) -> ArraySpec:
        """Shape and dtype; the device is the one that JAX compiles for, which a tracer has too."""
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            raise ArgumentError(
                f"it is a JAX array of dtype {x.dtype}, which no other framework has. For a PRNG "
                "key, pass `jax.random.key_data(key)`, or `rng=key` for what the function draws."
            )
        device = "cuda:0" if jax.default_backend() in ("gpu", "cuda") else "cpu"
        return dataclasses.replace(self.spec(x), weak_type=False, device=device)

    def borrower(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """NumPy views as they are where `jax.jit` would put them on `device` anyway."""
        host = device == "cpu" and jax.default_backend() == "cpu"

        def borrow(buffers: Sequence[Any]) -> Sequence[Any]:
            check_not_forked()
            default = CONFIG.jax_default_device
            # Arrays that were put on a device could not enter a program for several.
            if host and (default is None or getattr(default, "platform", default) == "cpu"):
                return buffers
            with (
                jax.enable_x64(new_val=True),
                allow_transfers(),
            ):  # else 64-bit values would be narrowed
                return [put_on_device(x, device) for x in buffers]

        return borrow

    def releaser(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """Capsules for the host, which wait for the values; elsewhere the arrays, for streams."""
        if device != "cpu":
            return lambda outputs: [gather(y, device) for y in outputs]
        # All devices of the host have one memory.
        near = SingleDeviceSharding if jax.default_backend() == "cpu" else None
        return functools.partial(_capsules, near=near)

    def lender(self, device: str) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """The arrays themselves, which have `__dlpack__`, on `device`."""

        def lend(xs: Sequence[Any]) -> Sequence[Any]:
            check_not_forked()
            return [lend_one(x) if self.is_array(x) else x for x in xs]

        def lend_one(x: Any) -> Any:
            spread = self.export(x, dense=False, copy=None, whole=False)
            return jax.device_put(spread, find_device(device))

        return lend

    def read_values(self, x: Any) -> Any:
        """`x` itself."""
        return self.export(x, dense=True, copy=None)

    def adopter(self, device: str) -> Callable[[Sequence[Any]], Arrays]:
        """Arrays over the memory of buffers, or copies where it is not aligned."""
        return _adopt

    def supports_dtype(self, dtype: str) -> bool:
        """Whether JAX has a dtype of this name, in the mode that it is in, or narrows it."""
        return dtype in _DTYPES and (x64_mode() or dtype not in NARROW or dtype in NARROW_INTEGERS)

    def unsupported_dtype_advice(self, dtype: str) -> str:
        """Why results of this dtype cannot be had, and what to write instead."""
        if dtype not in NARROW:
            return "which jax has no counterpart of. Convert it in the function, to another dtype."
        return (
            f"which has no counterpart while JAX is in 32-bit mode. Convert it to {NARROW[dtype]} "
            'in the function, or call it in 64-bit mode: jax.config.update("jax_enable_x64", True),'
            " or `with jax.enable_x64(True):`."
        )

    def check_dtype(self, dtype: str) -> None:
        """Nothing: what JAX lacks is told with what its functions are called with."""

    def meta_arrays(self, specs: Specs) -> Arrays:
        """Nothing: JAX has no arrays without values."""
        raise NoValuesError("JAX has no arrays without values.")

    def export(self, x: Any, *, dense: bool, copy: bool | None, whole: bool = True) -> Any:
        """`x` itself, gathered on one device; a tracer and a PRNG key are refused."""
        if isinstance(x, Tracer):
            raise NoValuesError(f"a JAX tracer ({self.spec(x)}) has no values to convert.")
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            raise ArgumentError(
                f"a JAX array of dtype {x.dtype} has no counterpart. "
                "For a PRNG key, convert `jax.random.key_data(key)`."
            )
        if not whole:
            return x
        if copy is False and len(x.sharding.device_set) > 1:
            raise CopyError(
                f"copy=False, but the array is {describe_devices(x)}, and would be gathered."
            )
        return gather(x)

    def convert(self, x: Any, *, copy: bool | None) -> jax.Array:
        """An array over the memory of `x`, or a copy; 64-bit values need JAX's 64-bit mode."""
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
            # from_dlpack(copy=True) shares all the same, in jax 0.10.
            y = jax.dlpack.from_dlpack(buffer, copy=None if copy else copy)
        except (ValueError, RuntimeError) as error:  # memory not aligned to 64 bytes
            if copy is None or copy:
                raise
            raise CopyError(f"copy=False, but JAX cannot share its memory: {error}") from error
        y = y.view(low) if low else y
        return jax.block_until_ready(jnp.array(y) if copy else y)

    def pytree_node(self, x: Any) -> PytreeNode | None:
        """A class registered with `jax.tree_util`, as Equinox modules and Flax structs are."""
        if jax.tree_util.all_leaves([x]):  # unlike flattening, it does not warn of generators
            return None

        def take(node: Any) -> tuple[list[Any], Any]:
            return jax.tree.flatten(node, is_leaf=lambda child: child is not node)

        def build(structure: Any, children: Iterable[Any]) -> Any:
            return jax.tree.unflatten(structure, children)

        return take, build


# The dtypes of PRNG keys that were met: JAX has no way from their names back to them.
_extended: dict[str, Any] = {}


def _adopt(buffers: Sequence[Any]) -> Arrays:
    owners = [x if hasattr(x, "__dlpack__") else HostCapsule(x) for x in buffers]
    with jax.enable_x64(new_val=True):  # else 64-bit values would be narrowed
        arrays = tuple(jax.dlpack.from_dlpack(x) for x in owners)
    return tuple(jax.block_until_ready(arrays))


def shape_dtype_struct(spec: ArraySpec, *, x64: bool) -> jax.ShapeDtypeStruct:
    """What `jax.make_jaxpr` takes for an argument of this spec."""
    dtype = spec.dtype if x64 else NARROW.get(spec.dtype, spec.dtype)
    found = _extended.get(dtype) or jnp.dtype(dtype)
    return jax.ShapeDtypeStruct(spec.shape, found, weak_type=spec.weak_type)


try:  # a third of the cost of __dlpack__, which finds the device and its stream anew
    from jaxlib._jax import buffer_to_dlpack_managed_tensor as _capsule
except ImportError:

    def _capsule(y: Any) -> Any:
        return y.__dlpack__()


def _capsules(outputs: Sequence[Any], near: type | None) -> Sequence[Any]:
    try:
        whole = [y if type(y.sharding) is near else gather(y, "cpu") for y in outputs]
        return [_capsule(y) for y in whole]
    except (RuntimeError, AttributeError) as error:  # a tracer has no sharding, nor a buffer
        if not any(isinstance(y, Tracer) for y in outputs):
            raise
        raise NoValuesError(
            "a bridged function was called while JAX traces a function, so that its result has "
            "no values yet. Call the function of JAX itself there."
        ) from error


def conjugate_all(xs: Iterable[Any]) -> tuple[Any, ...]:
    """Between JAX's convention for complex cotangents and that of torch and MLX."""
    return tuple(jnp.conj(x) if jnp.iscomplexobj(x) else x for x in xs)


ARRAYS = JaxArrays()
