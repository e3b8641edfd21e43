"""Trial runs of a function, after which its state is restored.

NOTE [runs that leave no trace]
A function is run several times to capture its graph, and once on example inputs to learn what it
returns. It may keep a state: in a closure, in an attribute, or in memory that it writes to. Each of
the user's calls must continue from the user's last call, not from a trial run. So every trial run
starts from the state before the first one, and this state is restored at the end: names that the
function can reach refer to the same objects again, and memory and random generators are as they
were. What a run leaves behind stays until the next run, since a backward pass may read it.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.numpy_copies import save_numpy, save_numpy_random
from bridge._arrays.torch.upstream.modes import without_functions, without_modes
from bridge._arrays.torch.upstream.tensors import (
    hook_dicts,
    is_real,
    non_tensor_values,
    storage_id,
    tensors_of,
)
from bridge._core.captured_values import walk_holders
from bridge._core.trial_state import TrialState
from bridge._sources.torch.state.operands import LENDING, SETTERS, OperandObserver


class _Local(threading.local):
    """The trials that this thread is in; the innermost is the last."""

    trials: "tuple[Trial, ...]" = ()


_local = _Local()


class Trial:
    """Runs that leave no trace: NOTE [runs that leave no trace].

    Attributes:
        has_leftovers: True if a run has left tensors without values where the next run may read
            them.
        accumulated: True if a run has added to the gradient of a captured tensor.
    """

    has_leftovers = False
    accumulated = False
    _keeps_state = False

    def __init__(self) -> None:
        self._states: dict[int, tuple[Any, TrialState]] = {}
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._gradients: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self._attributes: dict[int, tuple[torch.Tensor, dict[str, Any]]] = {}
        # The ids of storages that existed before the runs, and of those that the runs allocate.
        self._captured, self._fresh = set[int](), set[int]()
        self._restore_random = save_numpy_random()

    def save_or_restore(self, fn: Any) -> None:
        """Let a run of `fn` start from the state before the first run."""
        if self._keeps_state:
            return
        if id(fn) in self._states:
            self.restore()
            started = [state for _, state in self._states.values()]
        else:
            objects = _reachable(fn)
            started = [TrialState(objects, _save)]
            self._gradients += [(x, x.grad) for x in objects if _accumulates_gradient(x)]
            self._states[id(fn)] = fn, started[0]
        for state in started:
            state.protect_iterators()

    @contextlib.contextmanager
    def keeping_state(self) -> Generator[None]:
        """Let runs within start where the last run ended."""
        self._keeps_state = True
        try:
            yield
        finally:
            self._keeps_state = False

    def record_leftovers(self) -> None:
        """Record whether a run has left tensors without values, or has accumulated gradients."""
        self.has_leftovers = self.has_leftovers or not all(map(is_real, self.new_tensors()))
        self.accumulated |= any(x.grad is not before for x, before in self._gradients)

    def new_tensors(self) -> list[torch.Tensor]:
        """Return the tensors that runs have stored where other values, or none, stood before."""
        values = [x for _, state in self._states.values() for x in state.newly_stored_values()]
        inside = (y for x in values for y in walk_holders(x, _is_module))
        return [y for y in inside if isinstance(y, torch.Tensor)]

    def look(self, x: torch.Tensor, *, written: bool) -> None:
        """Save the memory of a captured tensor before it is written to."""
        key = storage_id(x) if is_real(x) else None
        if key is None or key in self._fresh:
            return
        self._captured.add(key)
        if written and key not in self._memory:
            with without_modes():  # which would observe the copy too
                storage = x.untyped_storage()
                self._memory[key] = storage, storage.clone()

    def save_attribute(self, x: torch.Tensor, name: str) -> None:
        """Save the attribute `data` or `grad` of a captured tensor before it is set."""
        saved = self._attributes.setdefault(id(x), (x, {}))[1]
        if is_real(x) and storage_id(x) not in self._fresh and name not in saved:
            saved[name] = getattr(x, name)

    def note_allocation(self, x: torch.Tensor) -> None:
        """Note that a run has allocated the memory of `x` itself, so that it is not restored."""
        key = storage_id(x)
        if key is not None and key not in self._captured:
            self._fresh.add(key)

    def restore(self) -> None:
        """Restore the state before the first run."""
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
                state.restore()
            self._restore_random()


@contextlib.contextmanager
def trial_runs() -> Generator[Trial]:
    """Restore the state of functions that run within: NOTE [runs that leave no trace]."""
    outer, trial = _local.trials, Trial()
    _local.trials = (*outer, trial)
    try:
        yield trial
    finally:
        _local.trials = outer
        trial.restore()


@contextlib.contextmanager
def dry_run() -> Generator[Trial]:
    """Restore the state of functions that run within on values, and may write to memory."""
    with (
        trial_runs() as trial,
        OperandObserver(trial.look, trial.note_allocation),
        _AccessObserver(trial),
    ):
        yield trial


def call_user_function(fn: Callable[..., Any], xs: Sequence[torch.Tensor]) -> Any:
    """Call `fn`; in a trial, from the state before the trial."""
    with without_functions():
        for trial in _local.trials:
            trial.save_or_restore(fn)
    results = fn(*xs)
    with without_functions():
        for trial in _local.trials:
            trial.record_leftovers()
    return results


class _AccessObserver(TorchFunctionMode):
    """Tells a trial which tensors are changed without an operator."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self._trial = trial

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, after its tensor was saved if `func` may change it."""
        if func in LENDING:
            self._trial.look(args[0], written=True)
        if func in SETTERS:
            self._trial.save_attribute(args[0], SETTERS[func])
        return func(*args, **(kwargs or {}))


def _reachable(fn: Any) -> list[Any]:
    """Return the objects that `fn` can reach, with the attributes and tensors of modules."""
    seen: set[int] = set()
    queue = [*walk_holders(fn, _is_module, seen)]
    # A PureModule restores its modules itself.
    managed = {id(y) for x in queue for y in getattr(x, "managed_modules", ())}
    objects = list[Any]()
    while queue:
        objects += [x for x in queue if id(x) not in managed and not _is_module(x)]
        submodules = {id(part): part for x in queue if _is_module(x) for part in x.modules()}
        parts = [x for key, x in submodules.items() if key not in managed]
        for x in parts:
            objects += [vars(x), *tensors_of(x), *hook_dicts(x), *x.parameters(recurse=False)]
        roots = [y for part in parts for y in [type(part), *non_tensor_values(part)]]
        queue = [y for root in roots for y in walk_holders(root, _is_module, seen)]
    return objects


def _is_module(x: Any) -> bool:
    return isinstance(x, torch.nn.Module)


def _save(x: Any) -> Callable[[], None] | None:
    """Return what restores the state of a generator or of a NumPy array."""
    if isinstance(x, torch.Generator):
        return functools.partial(_set_state, x, x.get_state())
    return save_numpy(x)


def _accumulates_gradient(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and is_real(x) and x.requires_grad and x.is_leaf


def _set_state(generator: torch.Generator, state: torch.Tensor) -> None:
    generator.set_state(state)
