"""Batches over several seeds, one example after the other.

NOTE [a seed for each example]
torch seeds a generator, not an example: batched operators draw for all examples from one state. An
example has to draw what it would alone, so each is computed alone, within one call, and so is each
derivative of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge._core.graph import MappedGraph
from bridge._core.op import Op, Specs
from bridge._sources.torch.program import Settings

Axes = tuple[int | None, ...]


def batched_specs(specs: Specs, axes: Axes, size: int) -> Specs:
    """`specs` with an axis of this size where `axes` is no `None`."""
    return tuple(spec.with_axis(axis, size) for spec, axis in zip(specs, axes, strict=True))


def has_seed_per_example(settings: Settings, axes: Axes) -> bool:
    """Whether each example has a seed of its own."""
    return settings.seed is not None and axes[settings.seed] is not None


def loop_call(one: Op, axes: Axes, onto: Axes, size: int, outputs: Specs) -> Callable[..., Any]:
    """The call of `one` for each example: NOTE [a seed for each example].

    Of its results, those whose axis in `onto` is `None` are summed; together they are `outputs`.
    """

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not size:
            return tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in outputs)
        rows = [one.call(*_example(xs, axes, n)) for n in range(size)]
        columns = zip(zip(*rows, strict=True), onto, strict=True)
        return tuple(
            torch.stack(ys).sum(0) if axis is None else torch.stack(ys, axis)
            for ys, axis in columns
        )

    return call


def _example(xs: Sequence[torch.Tensor], axes: Axes, n: int) -> list[torch.Tensor]:
    # In memory as a single argument is, for functions that go by strides.
    pairs = zip(xs, axes, strict=True)
    return [x if axis is None else x.select(axis, n).contiguous() for x, axis in pairs]


def map_graph(one: Op, axes: Axes, onto: Axes, size: int) -> Callable[[], MappedGraph] | None:
    """What writes out `one` for each example, if it is written out itself."""
    graph = one.graph
    return graph and (lambda: MappedGraph(graph(), axes, onto, size))


def loop_op(one: Op, axes: Axes, size: int) -> Op:
    """`one`, which is not differentiated, mapped over `axes` of its arguments."""
    outputs = tuple(spec.with_axis(0, size) for spec in one.output_specs())
    found = Op(
        name=f"{one.name}.vmap",
        framework="torch",
        call=loop_call(one, axes, (0,) * len(outputs), size, outputs),
        output_specs=lambda *_: outputs,
        vmap=lambda axes, size: loop_op(found, axes, size),
        dependencies=one.dependencies,
        fingerprint=one.fingerprint,
        graph=map_graph(one, axes, (0,) * len(outputs), size),
    )
    return found
