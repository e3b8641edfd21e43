"""Whether the tensors that a function captures are at its derivative what they were at its call.

NOTE [versions]
A graph reads the tensors that its function captures on each call. What is kept for the backward
pass is of the forward pass, so that where one was changed in place in between, the gradient would
be of neither. torch counts changes in place: the counts are kept, and compared.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch.fx import GraphModule

from bridge._core.call_stamp import taking_stamp, with_stamp
from bridge._core.errors import ArgumentError
from bridge._core.op import Op
from bridge._sources.torch.code.codegen import get_attribute

Constants = Sequence[torch.Tensor]


def captured_tensors(module: GraphModule) -> Constants:
    """The tensors that a graph reads and a user may change; it alone has those made in it."""
    nodes = module.graph.find_nodes(op="get_attr")
    found = [
        get_attribute(module, str(node.target)) for node in nodes if not node.meta.get("fresh")
    ]
    return [x for x in found if isinstance(x, torch.Tensor)]


def with_versions(op: Op, constants: Constants) -> Op:
    """`op` with one more result, the versions of `constants`: NOTE [versions]."""

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(_versions(constants), dtype=torch.int32).expand(shape).contiguous()

    return with_stamp(op, make, (len(constants),))


def checking_versions(op: Op, constants: Constants, at: int, name: str) -> Op:
    """`op`, which takes at the position `at` the versions that `constants` have to have still."""

    def check(stamp: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        before, now = stamp.tolist(), _versions(constants)
        if before != now:
            pairs = zip(before, now, constants, strict=True)
            changed = next(x for old, new, x in pairs if old != new)
            raise ArgumentError(
                f"a tensor that {name} captures ({str(changed.dtype).removeprefix('torch.')}"
                f"{list(changed.shape)}) was changed in place between a call and its derivative, "
                "which would be of neither of its values. Change it afterwards, or pass it as an "
                "argument."
            )
        return contextlib.nullcontext()

    return taking_stamp(op, at, check)


def _versions(constants: Constants) -> list[int]:
    return [x._version for x in constants]
