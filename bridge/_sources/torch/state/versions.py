"""Whether the tensors that a function captures are at its derivative what they were at its call.

NOTE [versions]
A graph reads the tensors that its function captures on each call. What is kept for the backward
pass is of the forward pass, so that where one was changed in place in between, the gradient would
be of neither. torch counts changes in place: the counts are kept, and compared.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from bridge._core.errors import ArgumentError
from bridge._core.op import Op, Specs
from bridge._core.spec import ArraySpec
from bridge._sources.torch.batching.loop_vmap import Axes
from bridge._sources.torch.code.codegen import get_attribute

Constants = Sequence[torch.Tensor]


def captured_tensors(module: GraphModule) -> Constants:
    """The tensors that a graph reads and a user may change; it alone has those made in it."""
    nodes = module.graph.find_nodes(op="get_attr")
    found = [
        get_attribute(module, str(node.target)) for node in nodes if not node.meta.get("fresh")
    ]
    return [x for x in found if isinstance(x, torch.Tensor)]


def with_versions(op: Op, constants: Constants, batch: Sequence[int] = ()) -> Op:
    """`op` with one more result, the versions of `constants`: NOTE [versions]."""
    shape = (*batch, len(constants))

    def versions() -> torch.Tensor:
        return torch.tensor(_versions(constants), dtype=torch.int32).expand(shape).contiguous()

    def into(places: Sequence[Any], primals: Sequence[Any]) -> Any:
        return *_given(op.call_into)(places[:-1], primals), versions()

    def specs(*inputs: ArraySpec) -> Specs:
        outputs = op.output_specs(*inputs)
        device = outputs[0].device if outputs else "cpu"
        return *outputs, ArraySpec(shape, "int32", device)

    return dataclasses.replace(
        op,
        call=lambda *xs: (*op.call(*xs), versions()),
        call_into=op.call_into and into,
        output_specs=specs,
        vmap=lambda axes, size: with_versions(
            _given(op.vmap)(axes, size), constants, (size, *batch)
        ),
        dependencies=op.dependencies and (lambda: [*_given(op.dependencies)(), frozenset[int]()]),
    )


def checking_versions(
    op: Op, constants: Constants, at: int, name: str, batch: tuple[int | None, ...] = ()
) -> Op:
    """`op`, which takes at the position `at` the versions that `constants` have to have still.

    Of a batch along the axes `batch`, the outermost first, the first example tells.
    """

    def checked(xs: Sequence[Any]) -> list[Any]:
        kept = xs[at]
        for axis in batch if kept.numel() else ():
            kept = kept if axis is None else kept.select(axis, 0)
        before = kept.tolist() if kept.numel() else _versions(constants)
        if before != _versions(constants):
            now = zip(before, _versions(constants), constants, strict=True)
            changed = next(x for old, new, x in now if old != new)
            raise ArgumentError(
                f"a tensor that {name} captures ({str(changed.dtype).removeprefix('torch.')}"
                f"{list(changed.shape)}) was changed in place between a call and its derivative, "
                "which would be of neither of its values. Change it afterwards, or pass it as an "
                "argument."
            )
        return [*xs[:at], *xs[at + 1 :]]

    def vmap(axes: Axes, size: int) -> Op:
        others = (*axes[:at], *axes[at + 1 :])
        return checking_versions(
            _given(op.vmap)(others, size), constants, at, name, (axes[at], *batch)
        )

    def reach() -> list[frozenset[int]]:
        return [frozenset(i + (i >= at) for i in some) for some in _given(op.dependencies)()]

    return dataclasses.replace(
        op,
        call=lambda *xs: op.call(*checked(xs)),
        call_into=op.call_into and (lambda places, xs: _given(op.call_into)(places, checked(xs))),
        vmap=vmap,
        dependencies=op.dependencies and reach,
    )


def _versions(constants: Constants) -> list[int]:
    return [x._version for x in constants]


def _given(rule: Callable[..., Any] | None) -> Callable[..., Any]:
    """A rule that halves of derivatives always have."""
    if rule is None:
        raise RuntimeError("half of a derivative lacks a rule.")
    return rule
