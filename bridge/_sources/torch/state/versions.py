"""A check that captured tensors are the same at a derivative as they were at the call.

NOTE [versions]
A graph reads the tensors that its function captures on each call. The residuals of a backward pass
come from the forward pass: if a captured tensor was changed in place in between, the gradient would
be that of neither value. torch counts changes in place, so these counts are saved and compared.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch.fx import GraphModule

from bridge._arrays.torch.upstream.tensors import versions
from bridge._core.call_stamp import returning_stamp, taking_stamp
from bridge._core.errors import ArgumentError
from bridge._core.op import Op
from bridge._sources.torch.code.codegen import graph_constants

Constants = Sequence[torch.Tensor]


def captured_tensors(module: GraphModule) -> Constants:
    """Return the constants of a graph that a user may change: not those made in the function."""
    constants = [x for node, x in graph_constants(module) if not node.meta.get("fresh")]
    return [x for x in constants if isinstance(x, torch.Tensor)]


def returning_versions(op: Op, constants: Constants) -> Op:
    """Add an output to `op`, the versions of `constants`: NOTE [versions]."""

    def make(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor(versions(constants), dtype=torch.int32).expand(shape).contiguous()

    return returning_stamp(op, make, (len(constants),))


def checking_versions(op: Op, constants: Constants, position: int, name: str) -> Op:
    """Add an input to `op` at `position`, the versions that `constants` must still have."""

    def check(stamp: torch.Tensor) -> contextlib.AbstractContextManager[None]:
        before, now = stamp.tolist(), versions(constants)
        if before != now:
            pairs = zip(before, now, constants, strict=True)
            changed = next(x for old, new, x in pairs if old != new)
            raise ArgumentError(
                f"a tensor that {name} captures ({str(changed.dtype).removeprefix('torch.')}"
                f"{list(changed.shape)}) was changed in place between a call and its derivative, "
                "which would be that of neither value. Change it afterwards, or pass it as an "
                "argument."
            )
        return contextlib.nullcontext()

    return taking_stamp(op, position, check)
