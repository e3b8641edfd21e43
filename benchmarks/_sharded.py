"""Sharded arrays as DTensors and back, in one process: what the hand-over of a shard costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import to_jax, to_torch

_SIZES = {"1 KB": 2**8, "64 MB": 2**24}
_LEAVES = 100
_INTO_TORCH, _INTO_JAX = "to_torch(tree, mesh=)", "to_jax(tree, mesh=)"
_LOCAL = "DTensor.from_local of tensors that are there"
_SINGLE = "jax.make_array_from_single_device_arrays of arrays that are there"


def crossing(effort: Effort) -> list[Measurement]:
    """A shard of 1 KB and of 64 MB, and a hundred shards, there and back."""
    with _meshes() as (device_mesh, mesh):
        sharding = NamedSharding(mesh, P("dp"))
        return [
            *_one(device_mesh, sharding, effort),
            _many_to_torch(device_mesh, sharding, effort),
            _many_to_jax(device_mesh, sharding, effort),
        ]


@contextmanager
def _meshes() -> Iterator[tuple[DeviceMesh, Mesh]]:
    """A mesh of this process alone, of each framework."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    names = ("dp",)
    yield (
        init_device_mesh("cpu", (1,), mesh_dim_names=names),
        Mesh(np.array(jax.devices("cpu")[:1]), names),
    )
    torch.distributed.destroy_process_group()


def _random(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count).astype("float32")


def _one(device_mesh: DeviceMesh, sharding: NamedSharding, effort: Effort) -> Iterator[Measurement]:
    arrays = {size: jax.device_put(_random(n), sharding) for size, n in _SIZES.items()}
    tensors = {size: to_torch(x, mesh=device_mesh) for size, x in arrays.items()}
    into_jax = lambda x: to_jax(x, mesh=sharding.mesh)
    yield _sizes("to_torch(x, mesh=)", arrays, lambda x: to_torch(x, mesh=device_mesh), effort)
    yield _sizes("to_jax(x, mesh=)", tensors, into_jax, effort)


def _sizes(
    name: str, xs: dict[str, Any], convert: Callable[[Any], Any], effort: Effort
) -> Measurement:
    steps: dict[str, Step] = {f"{name}, {size}": lambda x=x: convert(x) for size, x in xs.items()}
    small, large = steps
    return Measurement(
        title=f"{name}, one shard of 1 KB and of 64 MB",
        unit="us",
        values=timed(steps, seconds=effort.seconds(3), scale=1e6),
        reference=small,
        bars=[Bar("as long as 1 KB, within 1.2x", large, small, 1.2)],
    )


def _many_to_torch(device_mesh: DeviceMesh, sharding: NamedSharding, effort: Effort) -> Measurement:
    arrays = [jax.device_put(_random(256), sharding) for _ in range(_LEAVES)]
    tensors = [torch.from_dlpack(x.addressable_data(0)) for x in arrays]
    shape, stride = tensors[0].shape, tensors[0].stride()
    place = lambda x: DTensor.from_local(
        x, device_mesh, [Shard(0)], run_check=False, shape=shape, stride=stride
    )
    steps: dict[str, Step] = {
        _LOCAL: lambda: [place(x) for x in tensors],
        _INTO_TORCH: lambda: to_torch(arrays, mesh=device_mesh),
    }
    return Measurement(
        title=f"{_LEAVES} shards of 1 KB to DTensors",
        unit="us",
        values=timed(steps, seconds=effort.seconds(4), scale=1e6),
        reference=_LOCAL,
        bars=[Bar("within 2x DTensor.from_local", _INTO_TORCH, _LOCAL, 2)],
    )


def _many_to_jax(device_mesh: DeviceMesh, sharding: NamedSharding, effort: Effort) -> Measurement:
    arrays = [jax.device_put(_random(256), sharding) for _ in range(_LEAVES)]
    tensors = to_torch(arrays, mesh=device_mesh)
    shards = [x.addressable_data(0) for x in arrays]
    join = jax.make_array_from_single_device_arrays
    steps: dict[str, Step] = {
        _SINGLE: lambda: [join(x.shape, sharding, [x]) for x in shards],
        _INTO_JAX: lambda: to_jax(tensors, mesh=sharding.mesh),
    }
    return Measurement(
        title=f"{_LEAVES} DTensors of 1 KB to sharded arrays",
        unit="us",
        values=timed(steps, seconds=effort.seconds(4), scale=1e6),
        reference=_SINGLE,
        bars=[Bar("what it costs to take them over", _INTO_JAX, _SINGLE)],
    )
