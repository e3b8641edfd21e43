"""DTensors: tensors of which each process holds one shard."""

import functools
import weakref
from typing import TYPE_CHECKING, Any

import torch

from bridge._arrays.torch.derivatives import check_no_derivative
from bridge._arrays.torch.upstream.shards import has_default_order
from bridge._core.errors import ArgumentError, DeviceError, OptionError
from bridge._core.sharding import ProcessMesh, ShardLayout

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


class TorchShards:
    """DTensors whose placements are those of a sharding in equal parts."""

    def describe_mesh(self, mesh: Any) -> ProcessMesh:
        """Return what `mesh`, the option of `to_torch`, is in no framework's terms."""
        if not torch.distributed.is_available():
            raise OptionError(
                f"mesh={mesh!r}, but this build of torch has no torch.distributed, so no DTensors."
            )
        from torch.distributed.device_mesh import DeviceMesh

        if not isinstance(mesh, DeviceMesh):
            raise OptionError(
                "mesh= of to_torch expects a DeviceMesh, such as `init_device_mesh("
                f'"cpu", (2,), mesh_dim_names=("dp",))`, but got {mesh!r}, {type(mesh)}.'
            )
        return _describe(mesh)

    def split(self, x: Any) -> tuple[Any, ShardLayout] | None:
        """Return the shard of this process, and the layout of `x`; None for other tensors."""
        if not is_dtensor(x):
            return None
        check_no_derivative(x)
        axes: list[list[str]] = [[] for _ in x.shape]
        mesh = _describe(x.device_mesh)
        for name, placement in zip(mesh.names, x.placements, strict=True):
            dimension = _sharded_dimension(placement, mesh)
            if dimension is not None:
                axes[dimension].append(name)
        if not has_default_order(x):
            raise ArgumentError(
                f"its dimensions are split against the order {list(mesh.names)} of the mesh. Call "
                ".redistribute(placements=...) first."
            )
        mesh.check_has_place()
        return x.to_local(), ShardLayout(mesh, tuple(x.shape), tuple(map(tuple, axes)))

    def join(
        self, shard: torch.Tensor, layout: ShardLayout, mesh: "DeviceMesh", *, copy: bool | None
    ) -> "DTensor":
        """Make the DTensor on `mesh` of which `shard` is the part of this process."""
        placements = _placements(layout.axes, layout.mesh.names)
        if shard.device.type != mesh.device_type:
            raise DeviceError(
                f"its part in this process is on {shard.device}, and the mesh is one of "
                f"{mesh.device_type} devices. Move it there first, or make a mesh of "
                f"{shard.device.type} devices."
            )
        return _dtensor_class().from_local(
            shard,
            mesh,
            placements,
            run_check=False,  # which would compare the processes
            shape=torch.Size(layout.shape),
            stride=_strides(layout.shape, shard),
        )


@functools.cache
def _dtensor_class() -> "type[DTensor]":
    from torch.distributed.tensor import DTensor  # which takes long to load

    return DTensor


def is_dtensor(x: Any) -> bool:
    """Return True if `x` is a DTensor, known by the method that we advise."""
    return hasattr(x, "to_local")


_meshes: "weakref.WeakKeyDictionary[DeviceMesh, ProcessMesh]" = weakref.WeakKeyDictionary()


def _describe(mesh: "DeviceMesh") -> ProcessMesh:
    if mesh not in _meshes:
        if mesh.mesh_dim_names is None:
            raise ArgumentError(f"{mesh!r} has no names of axes. Make it with mesh_dim_names=.")
        ranks = mesh.mesh
        processes = ProcessMesh(
            tuple(mesh.mesh_dim_names),
            tuple(ranks.shape),
            tuple(ranks.flatten().tolist()),
            torch.distributed.get_rank(),
        )
        _check_ascending(processes, ranks)
        _meshes[mesh] = processes
    return _meshes[mesh]


def _check_ascending(mesh: ProcessMesh, ranks: torch.Tensor) -> None:
    """Raise unless the ranks along each axis of the mesh ascend.

    The ranks of a process group are sorted, so that `full_tensor` and `redistribute` put the
    parts together in another order than the placements say, which go by the place in the mesh.
    """
    for axis, name in enumerate(mesh.names):
        for line in ranks.movedim(axis, -1).reshape(-1, mesh.sizes[axis]).tolist():
            if line != sorted(line):
                raise ArgumentError(
                    f"the DeviceMesh is {mesh}, and along {name!r} its ranks {line} do not ascend. "
                    "There torch contradicts itself: the placements of a DTensor go by the place "
                    "in the mesh, its collectives, such as full_tensor(), by the sorted ranks "
                    f"{sorted(line)}. Make both meshes of ranks that ascend along each axis."
                )


@functools.lru_cache(maxsize=256)
def _placements(axes: tuple[tuple[str, ...], ...], mesh: tuple[str, ...]) -> "list[Placement]":
    """Return how a DTensor is split over each axis of the mesh."""
    from torch.distributed.tensor import Replicate, Shard

    placements: list[Placement] = [Replicate() for _ in mesh]
    for dimension, names in enumerate(axes):
        positions = [mesh.index(name) for name in names]
        if positions != sorted(positions):
            raise ArgumentError(
                f"its dimension {dimension} is split over {names} in this order, and a DTensor "
                f"splits in the order of the mesh, {mesh}. Split it over "
                f"{tuple(mesh[i] for i in sorted(positions))} first."
            )
        for i in positions:
            placements[i] = Shard(dimension)
    return placements


def _sharded_dimension(placement: Any, mesh: ProcessMesh) -> int | None:
    """Return the dimension that is sharded over a mesh axis; None if it is replicated."""
    from torch.distributed.tensor import Partial, Replicate, Shard

    if type(placement) is Shard:
        return placement.dim
    if isinstance(placement, Replicate):
        return None
    if isinstance(placement, Partial):
        raise ArgumentError(
            f"it holds partial sums, {placement!r}, which are not reduced. Call "
            ".redistribute(placements=...) first."
        )
    raise ArgumentError(
        f"its placement {placement!r} does not split in the order of the mesh, {list(mesh.names)}. "
        "Call .redistribute(placements=...) with Shard or Replicate first."
    )


def _strides(shape: tuple[int, ...], shard: torch.Tensor) -> tuple[int, ...]:
    """Return the strides of a whole tensor whose axes lie in memory as those of its shard."""
    order = tuple(range(len(shape)))
    if not shard.is_contiguous():
        order = tuple(sorted(order, key=lambda axis: -shard.stride(axis)))
    return _dense_strides(shape, order)


@functools.lru_cache(maxsize=1024)
def _dense_strides(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


SHARDS = TorchShards()
