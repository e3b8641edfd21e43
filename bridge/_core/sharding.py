"""How an array is split over processes, in the terms of no framework."""

import dataclasses
from typing import Any

from bridge._core.errors import ArgumentError, OptionError


@dataclasses.dataclass(frozen=True)
class ProcessMesh:
    """Processes in a grid whose axes have names.

    Attributes:
        names: The names of its axes.
        sizes: The sizes of its axes.
        processes: The number of the process at each place, the last axis fastest.
        current: The number of this process.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    processes: tuple[int, ...]
    current: int

    def __str__(self) -> str:
        axes = ", ".join(f"{n}={size}" for n, size in zip(self.names, self.sizes, strict=True))
        return f"({axes}) of the processes {list(self.processes)}, seen from {self.current}"

    def check_has_place(self) -> None:
        """Raise if this process is not in the mesh."""
        if self.current not in self.processes:
            raise ArgumentError(f"this process has no place on its mesh, {self}.")


@dataclasses.dataclass(frozen=True)
class ShardLayout:
    """How an array is split over a mesh into equal parts, each process holding one.

    Attributes:
        mesh: The mesh.
        shape: The shape of the whole array.
        axes: For each dimension the names of the mesh axes it is split over, outermost first. The
            array is replicated over the others.
    """

    mesh: ProcessMesh
    shape: tuple[int, ...]
    axes: tuple[tuple[str, ...], ...]

    def check_mesh(self, mesh: ProcessMesh) -> None:
        """Raise unless `mesh` is the mesh of the array."""
        if self.mesh != mesh:
            raise ArgumentError(
                f"its mesh is {self.mesh}, but mesh= is {mesh}. Names, sizes and processes have to "
                "be equal, since nothing is sent from one to another."
            )


class WholeArrays:
    """The shards of a framework whose arrays are never split over processes."""

    def describe_mesh(self, mesh: Any) -> ProcessMesh:
        """Raise: there is no mesh."""
        raise OptionError(f"mesh={mesh!r}, but these arrays are never split over processes.")

    def split(self, x: Any) -> None:
        """Return None: `x` is whole."""

    def join(self, shard: Any, layout: ShardLayout, mesh: Any, *, copy: bool | None) -> Any:
        """Raise: no array can be split."""
        self.describe_mesh(mesh)


WHOLE = WholeArrays()
