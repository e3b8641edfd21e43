"""Runs of a function that leave what it finds besides its arguments as it was.

NOTE [runs that leave no trace]
A function is run to make a graph of it, several times, and on made-up values, to find out what it
returns. One that keeps a state, in a closure, an attribute or memory that it writes to, would go on
from there: each of its calls has to go on from the call before. So each such run starts from the
state before the first, and at the end that is put back: names that the function can reach mean the
same objects again, and memory and random numbers are as they were. What a run has left stays until
the next, since a backward pass may read it.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.numpy_copies import save_numpy, save_numpy_random
from bridge._core.captured_values import walk_holders
from bridge._core.trial_state import TrialState
from bridge._sources.torch.internals import (
    is_real,
    other_values,
    storage_id,
    tensors_of,
    without_functions,
    without_modes,
)
from bridge._sources.torch.state.operands import LENDING, SETTERS, OperandObserver


class _Local(threading.local):
    """The trials that this thread is in, the innermost last."""

    trials: "tuple[Trial, ...]" = ()


_local = _Local()


class Trial:
    """Runs that leave no trace: NOTE [runs that leave no trace].

    Attributes:
        kept: Whether one of them has left tensors without values where the next may find them.
        accumulated: Whether one of them has added to the gradient of a captured tensor.
    """

    kept = False
    accumulated = False
    _goes_on = False

    def __init__(self) -> None:
        self._states: dict[int, tuple[Any, TrialState]] = {}
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._gradients: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._attributes: dict[int, tuple[torch.Tensor, dict[str, Any]]] = {}
        self._captured, self._fresh = set[int](), set[int]()  # memory
        self._restore_random = save_numpy_random()

    def begin(self, fn: Any) -> None:
        """Let a run of `fn` start from the state before the first."""
        if self._goes_on:
            return
        if id(fn) in self._states:
            self.put_back()
            started = [state for _, state in self._states.values()]
        else:
            objects = _reachable(fn)
            started = [TrialState(objects, _save)]
            self._gradients += [(x, x.grad) for x in objects if _is_leaf(x)]
            self._states[id(fn)] = fn, started[0]
        for state in started:
            state.protect_iterators()

    @contextlib.contextmanager
    def going_on(self) -> Generator[None]:
        """Let runs in here start from where the last has ended."""
        self._goes_on = True
        try:
            yield
        finally:
            self._goes_on = False

    def note_kept(self) -> None:
        """Look at what a run has left."""
        self.kept = self.kept or not all(map(is_real, self.new_tensors()))
        self.accumulated |= any(x.grad is not before for x, before in self._gradients)

    def new_tensors(self) -> list[torch.Tensor]:
        """The tensors that runs have left in places that held others, or none."""
        values = [x for _, state in self._states.values() for x in state.new_values()]
        inside = (y for x in values for y in walk_holders(x, _is_module))
        return [y for y in inside if isinstance(y, torch.Tensor)]

    def look(self, x: torch.Tensor, *, written: bool) -> None:
        """Let the memory of a tensor that was there before be put back if it is written to."""
        key = storage_id(x) if is_real(x) else None
        if key is None or key in self._fresh:
            return
        self._captured.add(key)
        if written and key not in self._memory:
            with without_modes():  # which would look at the copy too
                storage = x.untyped_storage()
                self._memory[key] = storage, storage.clone()

    def save_attribute(self, x: torch.Tensor, name: str) -> None:
        """Let what a tensor is over, or its gradient, be put back once another is set."""
        known = self._attributes.setdefault(id(x), (x, {}))[1]
        if is_real(x) and storage_id(x) not in self._fresh and name not in known:
            known[name] = getattr(x, name)

    def look_at_result(self, x: torch.Tensor) -> None:
        """Leave what a run has made itself to those who have it."""
        key = storage_id(x)
        if key is not None and key not in self._captured:
            self._fresh.add(key)

    def put_back(self) -> None:
        """The state before the first run."""
        with without_modes(), without_functions():
            for x, values in self._attributes.values():
                for name, value in values.items():
                    setattr(x, name, value)
            for x, gradient in self._gradients:
                if x.grad is not gradient:  # `.backward()` adds to it
                    x.grad = gradient
            for storage, before in self._memory.values():
                if storage.nbytes() != before.nbytes():
                    storage.resize_(before.nbytes())
                storage.copy_(before)
            for _, state in reversed(self._states.values()):
                state.put_back()
            self._restore_random()


@contextlib.contextmanager
def trial_runs() -> Generator[Trial]:
    """Let functions that run in here leave no trace: NOTE [runs that leave no trace]."""
    outer, trial = _local.trials, Trial()
    _local.trials = (*outer, trial)
    try:
        yield trial
    finally:
        _local.trials = outer
        trial.put_back()


@contextlib.contextmanager
def dry_run() -> Generator[None]:
    """The same for functions that compute with values, and may write to memory."""
    with (
        trial_runs() as trial,
        OperandObserver(trial.look, trial.look_at_result),
        _AccessObserver(trial),
    ):
        yield


def call_user_function(fn: Callable[..., Any], xs: Sequence[torch.Tensor]) -> Any:
    """The results of a function, in a trial from the state before it."""
    with without_functions():
        for trial in _local.trials:
            trial.begin(fn)
    results = fn(*xs)
    with without_functions():
        for trial in _local.trials:
            trial.note_kept()
    return results


class _AccessObserver(TorchFunctionMode):
    """Lets a trial know of tensors that are changed without an operator."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self._trial = trial

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, looked at."""
        if func in LENDING:
            self._trial.look(args[0], written=True)
        if func in SETTERS:
            self._trial.save_attribute(args[0], SETTERS[func])
        return func(*args, **(kwargs or {}))


def _reachable(fn: Any) -> list[Any]:
    """What `fn` can reach, and the attributes and tensors of modules among it."""
    seen: set[int] = set()
    reached = [*walk_holders(fn, _is_module, seen)]
    managed = {id(y) for x in reached for y in getattr(x, "managed_modules", ())}
    queue, objects = reached, list[Any]()
    while queue:
        objects += [x for x in queue if id(x) not in managed and not _is_module(x)]
        found = {id(part): part for x in queue if _is_module(x) for part in x.modules()}
        parts = [x for key, x in found.items() if key not in managed]
        objects += [
            y for x in parts for y in (vars(x), *tensors_of(x), *x.parameters(recurse=False))
        ]
        roots = [y for part in parts for y in [type(part), *other_values(part)]]
        queue = [y for root in roots for y in walk_holders(root, _is_module, seen)]
    return objects


def _is_module(x: Any) -> bool:
    return isinstance(x, torch.nn.Module)


def _save(x: Any) -> Callable[[], None] | None:
    if isinstance(x, torch.Generator):
        return functools.partial(_set_state, x, x.get_state())
    return save_numpy(x)


def _is_leaf(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and is_real(x) and x.requires_grad and x.is_leaf


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)
