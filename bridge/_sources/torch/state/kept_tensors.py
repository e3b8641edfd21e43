"""Tensors that a function keeps from one call for the next.

NOTE [tensors that are kept]
Each run that makes a graph starts from the state before the first call, so that a function which
goes on from a tensor that it has kept would be in its first call for ever. So where runs have left
tensors, the function runs twice in a row, without values: what the second takes of the first is
refused. What it keeps for others to look at is left out, and no state of it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from bridge._sources.torch.internals import without_values
from bridge._sources.torch.state.dry_run import Trial


class _ReadObserver(TorchFunctionMode):
    """Notes which of the `kept` tensors operators take."""

    def __init__(self, kept: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._kept = {id(x): x for x in kept}
        self.read: list[torch.Tensor] = []

    def look(self, values: Any) -> None:
        """Note those among these."""
        self.read += [x for x in pytree.tree_leaves(values) if id(x) in self._kept]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, whose arguments were looked at."""
        self.look((args, kwargs))
        return func(*args, **(kwargs or {}))


def tensors_read_again(
    fun: Callable[..., Any], xs: Sequence[torch.Tensor], trial: Trial
) -> list[torch.Tensor]:
    """The tensors that a call of `fun` reads of those that the call before has kept."""
    if not trial.kept:
        return []
    with without_values(xs):
        fun(*xs)
        with trial.going_on(), _ReadObserver(trial.new_tensors()) as observer:
            observer.look(fun(*xs))
    return observer.read
