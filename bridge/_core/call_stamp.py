"""Ops that hand a stamp of the call, such as a version or a number, on to their derivatives.

A derivative gets arrays only. So what it needs to know of its call besides is one more output of
the forward Op, of 32-bit integers, and one more input of the backward Op.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from bridge._core.op import Arrays, Op, OpCache, Specs
from bridge._core.spec import ArraySpec

Shape = tuple[int, ...]


def returning_stamp(op: Op, make: Callable[[Shape], Any], shape: Shape) -> Op:
    """Add an output to `op`: `make(shape)`, made before each call; a batch has it in front."""
    op = OpCache.copy_without_caches(op)
    into, dependencies = op.traits.call_into, op.traits.dependencies

    def stamped(run: Callable[[], Arrays]) -> Arrays:
        stamp = make(shape)
        return *run(), stamp

    def output_specs(*inputs: ArraySpec) -> Specs:
        outputs = op.output_specs(*inputs)
        device = outputs[0].device if outputs else "cpu"
        return *outputs, ArraySpec(shape, "int32", device)

    def vmap(axes: Sequence[int | None], size: int) -> Op:
        return returning_stamp(op.derive("vmap", axes, size), make, (size, *shape))

    return dataclasses.replace(
        OpCache.copy_without_caches(op),
        call=lambda *xs: stamped(lambda: op.call(*xs)),
        output_specs=output_specs,
        rules=dataclasses.replace(op.rules, vmap=vmap),
        traits=dataclasses.replace(
            op.traits,
            call_into=into and (lambda buffers, xs: stamped(lambda: into(buffers[:-1], xs))),
            dependencies=dependencies and (lambda: [*dependencies(), frozenset[int]()]),
        ),
    )


def taking_stamp(
    op: Op,
    position: int,
    enter: Callable[[Any], AbstractContextManager[None]],
    batch: Sequence[int | None] = (),
) -> Op:
    """Add an input to `op` at `position`, a stamp; each call is made within `enter(stamp)`.

    Of a batch along the axes `batch`, the outermost first, the first example tells.
    """
    op = OpCache.copy_without_caches(op)
    into, dependencies = op.traits.call_into, op.traits.dependencies

    def run(xs: Sequence[Any], call: Callable[[Sequence[Any]], Arrays]) -> Arrays:
        stamp, others = xs[position], [*xs[:position], *xs[position + 1 :]]
        if 0 in stamp.shape:
            return call(others)
        for axis in batch:
            stamp = stamp if axis is None else stamp[(slice(None),) * (axis % stamp.ndim) + (0,)]
        with enter(stamp):
            return call(others)

    def vmap(axes: Sequence[int | None], size: int) -> Op:
        others = (*axes[:position], *axes[position + 1 :])
        batched = op.derive("vmap", others, size)
        return taking_stamp(batched, position, enter, (axes[position], *batch))

    def shifted() -> list[frozenset[int]]:
        reach = dependencies() if dependencies else ()
        return [frozenset(i + (i >= position) for i in primals) for primals in reach]

    return dataclasses.replace(
        OpCache.copy_without_caches(op),
        call=lambda *xs: run(xs, lambda others: op.call(*others)),
        rules=dataclasses.replace(op.rules, vmap=vmap),
        traits=dataclasses.replace(
            op.traits,
            call_into=into and (lambda buffers, xs: run(xs, lambda others: into(buffers, others))),
            dependencies=dependencies and shifted,
        ),
    )
