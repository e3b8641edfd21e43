"""Runs of a function that leave the tensors it finds besides its arguments as they were.

NOTE [runs that leave no trace]
A function that runs anew is also run on made-up values, to find out what it returns. One that keeps
a state, in a closure, an attribute or a tensor that it writes to, would go on from made-up values.
So names that it can reach mean the same tensors again afterwards, and memory that it has written to
is restored; numbers and other objects are left as they are.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import torch

from bridge._core.captured_values import Holder, holders, walk_holders
from bridge._sources.torch.internals import OperandObserver, is_real, storage_id, tensors_of


@contextlib.contextmanager
def dry_run(fun: Callable[..., Any]) -> Generator[None]:
    """Run `fun` in here without a trace: NOTE [runs that leave no trace]."""
    contents = [(place, place.contents()) for place in _tensor_holders(fun)]
    memory: dict[int, tuple[torch.Tensor, torch.UntypedStorage]] = {}

    def look(x: torch.Tensor, *, written: bool) -> None:
        key = storage_id(x) if written and is_real(x) else None
        if key is not None and key not in memory:
            memory[key] = x, x.untyped_storage().clone()

    try:
        with OperandObserver(look):
            yield
    finally:
        for x, before in memory.values():
            x.untyped_storage().copy_(before)
        for place, before in contents:
            place.restore(before, _is_tensor)


def _tensor_holders(fun: Callable[..., Any]) -> list[Holder]:
    captured = [*walk_holders(fun, _is_module)]
    parts = {id(part): part for x in captured if _is_module(x) for part in x.modules()}
    values = [y for part in parts.values() for y in (vars(part), *tensors_of(part))]
    return [place for x in [*captured, *values] if not _is_module(x) for place in holders(x)]


def _is_module(x: Any) -> bool:
    return isinstance(x, torch.nn.Module)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)
