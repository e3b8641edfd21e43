"""Tensors that a function keeps from one call and reads in the next.

NOTE [retained tensors]
Each run that captures a graph starts from the state before the first call. A function that
continues from a tensor it has kept would stay in its first call for ever. So where runs have left
tensors behind, the function runs twice in a row, without values: tensors of the first run that the
second reads are refused. Tensors that it only keeps for others to look at are no state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.graphs import fake_mode_of
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._sources.torch.state.dry_run import Trial


class _ReadObserver(TorchFunctionMode):
    """Notes which of the `retained` tensors are read by operators."""

    def __init__(self, retained: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._retained = {id(x): x for x in retained}
        self.read: list[torch.Tensor] = []

    def look(self, values: Any) -> None:
        """Note the retained tensors among `values`."""
        self.read += [x for x in pytree.tree_leaves(values) if id(x) in self._retained]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Note the arguments of `func`, and call it."""
        self.look((args, kwargs))
        return func(*args, **(kwargs or {}))


def tensors_read_again(
    fun: Callable[..., Any], xs: Sequence[torch.Tensor], trial: Trial
) -> list[torch.Tensor]:
    """Return the tensors of one call of `fun` that the next call reads: NOTE [retained tensors]."""
    if not trial.has_leftovers:
        return []
    with fake_mode_of(xs):
        fun(*xs)
        with trial.keeping_state(), _ReadObserver(trial.new_tensors()) as observer:
            observer.look(fun(*xs))
    return observer.read
