"""Batched forms of Ops that compute one example after the other.

NOTE [a seed for each example]
torch seeds a generator, not an example: a batched operator draws for all examples from one state.
An example with a seed of its own must draw what it would draw alone. So each example, and each
derivative of it, is computed alone, in a loop within one call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge._core.graph import MappedGraph
from bridge._core.op import Axes, Op, Rules, Specs, Traits
from bridge._core.spec import batched_specs
from bridge._sources.torch.program import Settings


def has_seed_per_example(settings: Settings, axes: Axes) -> bool:
    """Return True if each example has a seed of its own."""
    return settings.seed_argnum is not None and axes[settings.seed_argnum] is not None


def loop_call(one: Op, axes: Axes, out_axes: Axes, size: int, outputs: Specs) -> Callable[..., Any]:
    """Make a call that runs `one` on each example: NOTE [a seed for each example].

    Outputs whose axis in `out_axes` is `None` are summed over the examples. `outputs` are the specs
    of the batched outputs.
    """

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if not size:
            return tuple(torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in outputs)
        examples = [one.call(*_select_example(xs, axes, n)) for n in range(size)]
        pairs = zip(zip(*examples, strict=True), out_axes, strict=True)
        return tuple(
            torch.stack(ys).sum(0) if axis is None else torch.stack(ys, axis) for ys, axis in pairs
        )

    return call


def _select_example(xs: Sequence[torch.Tensor], axes: Axes, n: int) -> list[torch.Tensor]:
    """Return the arguments of example `n`."""
    # Contiguous as a single argument is, for functions that depend on strides.
    pairs = zip(xs, axes, strict=True)
    return [x if axis is None else x.select(axis, n).contiguous() for x, axis in pairs]


def loop_op(one: Op, axes: Axes, size: int, out_axes: Axes | None = None) -> Op:
    """Make the batched form of `one`, an Op that is not differentiated.

    Its outputs have the examples along `out_axes`, by default in front.
    """
    specs, graph = one.output_specs(), one.traits.graph
    axes_of_outputs = (0,) * len(specs) if out_axes is None else out_axes
    outputs = batched_specs(specs, axes_of_outputs, size)
    op = Op(
        name=f"{one.name}.vmap",
        framework="torch",
        call=loop_call(one, axes, axes_of_outputs, size, outputs),
        output_specs=lambda *_: outputs,
        rules=Rules(vmap=lambda axes, size: loop_op(op, axes, size)),
        traits=Traits(
            dependencies=one.traits.dependencies,
            fingerprint=one.traits.fingerprint,
            graph=graph and (lambda: MappedGraph(graph(), axes, axes_of_outputs, size)),
        ),
    )
    return op
