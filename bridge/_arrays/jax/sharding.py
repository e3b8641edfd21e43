"""JAX arrays of which each process holds one shard."""

import functools
import math
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bridge._arrays.jax.devices import how_to_gather
from bridge._core.errors import ArgumentError, CopyError, DeviceError, OptionError
from bridge._core.sharding import ProcessMesh, ShardLayout


class JaxShards:
    """Arrays with a `NamedSharding`."""

    def describe_mesh(self, mesh: Any) -> ProcessMesh:
        """Return what `mesh`, the option of `to_jax`, is in no framework's terms."""
        if not isinstance(mesh, Mesh):
            raise OptionError(
                "mesh= of to_jax expects a jax.sharding.Mesh, such as "
                f'`jax.make_mesh((2,), ("dp",))`, but got {mesh!r}, {type(mesh)}.'
            )
        return _describe(mesh)

    def split(self, x: Any) -> tuple[Any, ShardLayout] | None:
        """Return the shard of this process, and the layout of `x`; None if `x` is on a device."""
        if isinstance(x, Tracer):
            return None
        sharding = x.sharding
        if not isinstance(sharding, NamedSharding):
            if len(sharding.device_set) == 1:
                return None
            raise ArgumentError(
                f"its {type(sharding).__name__} has no mesh whose axes have names. Put it on one, "
                f"`jax.device_put(x, NamedSharding(mesh, spec))`, or gather it: {how_to_gather(x)}."
            )
        mesh = _describe(sharding.mesh)
        mesh.check_has_place()
        count = len(sharding.addressable_devices)
        if count > 1:
            raise ArgumentError(
                f"it has {count} shards in this process, and each process hands over one. Start a "
                f"process for each device, or gather it: {how_to_gather(x)}."
            )
        axes = _axes_of_dimensions(sharding.spec, x.ndim)
        return x.addressable_data(0), ShardLayout(mesh, x.shape, axes)

    def join(self, shard: Any, layout: ShardLayout, mesh: Any, *, copy: bool | None) -> jax.Array:
        """Make the array on `mesh` of which `shard` is the part of this process."""
        _check_divisible(layout)
        sharding = NamedSharding(mesh, _spec(layout))
        expected = sharding.shard_shape(layout.shape)
        if shard.shape != expected:
            raise ArgumentError(
                f"the part in this process has the shape {shard.shape}, and a part of "
                f"{layout.shape} over {layout.mesh} has {expected}."
            )
        (device,) = sharding.addressable_devices
        placed = _place(shard, device, copy=copy)
        return jax.make_array_from_single_device_arrays(layout.shape, sharding, [placed])


@functools.lru_cache(maxsize=32)
def _describe(mesh: Mesh) -> ProcessMesh:
    processes = tuple(device.process_index for device in mesh.devices.flat)
    names, sizes = tuple(mesh.axis_names), mesh.devices.shape
    return ProcessMesh(names, sizes, processes, jax.process_index())


@functools.lru_cache(maxsize=256)
def _axes_of_dimensions(spec: PartitionSpec, ndim: int) -> tuple[tuple[str, ...], ...]:
    if getattr(spec, "unreduced", None):
        raise ArgumentError(
            f"it holds sums that are not reduced over {sorted(spec.unreduced)}. Reduce them first, "
            "by jax.reshard."
        )
    axes = [names if isinstance(names, tuple) else (names,) if names else () for names in spec]
    return (*axes, *[()] * (ndim - len(axes)))


def _spec(layout: ShardLayout) -> PartitionSpec:
    entries = [names[0] if len(names) == 1 else names or None for names in layout.axes]
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _check_divisible(layout: ShardLayout) -> None:
    sizes = dict(zip(layout.mesh.names, layout.mesh.sizes, strict=True))
    for dimension, names in enumerate(layout.axes):
        parts = math.prod(sizes[name] for name in names)
        if layout.shape[dimension] % parts:
            raise ArgumentError(
                f"its dimension {dimension} has {layout.shape[dimension]} elements, which "
                f"{parts} devices, over {' and '.join(names)}, cannot share equally, and JAX has "
                "only equal shards. Replicate it, or pad that dimension."
            )


def _place(shard: Any, device: Any, *, copy: bool | None) -> Any:
    """Return `shard` on `device`, which has to have the same memory unless it is copied."""
    (current,) = shard.devices()
    if current == device:
        return shard
    if current.platform != "cpu" or device.platform != "cpu":
        raise DeviceError(
            f"its part in this process is on {current}, where the mesh has {device}. Move it there "
            "first, or make the mesh of the devices that hold the parts."
        )
    if copy is False:
        raise CopyError(
            f"copy=False, but JAX takes memory of others on {current}, and the mesh has {device}."
        )
    return jax.device_put(shard, device)


SHARDS = JaxShards()
