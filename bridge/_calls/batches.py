"""Batches of the arguments of a function, which its source maps over."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._calls.plan import LeafInfo
from bridge._core.errors import ArgumentError
from bridge._core.op import Axes, Op, Specs
from bridge._core.protocols import SEED


@dataclasses.dataclass(frozen=True)
class Batches:
    """The batches that a function is mapped over, the innermost first.

    Attributes:
        in_dims: For each of them, what `BridgedFunction.vmap` was given.
    """

    in_dims: tuple[Any, ...] = ()

    def with_outer(self, in_dims: Any) -> "Batches":
        """Return these batches, and another one around them."""
        return Batches((*self.in_dims, in_dims))

    def example_specs(
        self, infos: Sequence[LeafInfo], paths: Sequence[Sequence[Any]], name: str
    ) -> tuple[Specs, list[tuple[Axes, int]]]:
        """Return the specs of one example of each array, and axes and size of each batch."""
        specs = [info.spec for info in infos if info.spec]
        batches: list[tuple[Axes, int]] = []
        for in_dims in reversed(self.in_dims):
            axes = [_axis(in_dims, path, name) for path in paths]
            sizes: dict[int, str] = {}
            for i, (spec, axis, info) in enumerate(zip(specs, axes, infos, strict=True)):
                if axis is None:
                    continue
                if not -len(spec.shape) <= axis < len(spec.shape):
                    raise ArgumentError(
                        f"argument {info.name} of {name} is {spec}, without axis {axis}, which "
                        "in_dims maps over."
                    )
                sizes.setdefault(spec.shape[axis], info.name)
                specs[i] = spec.without_axis(axis)
                axes[i] = axis % len(spec.shape)
            batches.append((tuple(axes), _single_size(sizes, name)))
        return tuple(specs), batches[::-1]

    def sizes(
        self, infos: Sequence[LeafInfo], paths: Sequence[Sequence[Any]], name: str
    ) -> tuple[int, ...]:
        """Return the sizes of the batches, the outermost first."""
        arrays = [(info, path) for info, path in zip(infos, paths, strict=True) if info.spec]
        array_infos, array_paths = [info for info, _ in arrays], [path for _, path in arrays]
        _, batches = self.example_specs(array_infos, array_paths, name)
        return tuple(size for _, size in batches[::-1])

    def derive(self, op: Op, batches: Sequence[tuple[Axes, int]]) -> Op:
        """Return the Op of all batches of what `op` has one example of."""
        for axes, size in batches:
            op = op.derive("vmap", axes, size)
        return op


def _axis(in_dims: Any, path: Sequence[Any], name: str) -> int | None:
    """Return the axis of a leaf, by the part of `in_dims` that is for it or for what holds it."""
    is_keyword, *keys = path
    if is_keyword:
        return 0 if keys[0] == SEED else None
    entry = in_dims
    for key in keys:
        if entry is None or isinstance(entry, int):
            break
        try:
            entry = entry[key]
        except (LookupError, TypeError):
            raise ArgumentError(
                f"in_dims={in_dims!r} does not match the arguments of {name}: it has to be an "
                "integer, None, or a tuple with one of them, or a container, for each argument."
            ) from None
    return entry


def _single_size(sizes: dict[int, str], name: str) -> int:
    if len(sizes) != 1:
        described = ", ".join(f"{argument} has {size}" for size, argument in sizes.items())
        raise ArgumentError(
            f"in_dims maps {name} over arguments of different sizes: {described}."
            if sizes
            else f"in_dims maps {name} over no argument. Give at least one of them an axis."
        )
    return next(iter(sizes))
