"""The plans of a bridged function, stored by what a trace depends on: NOTE [plans]."""

import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

from bridge._calls.export_key import decode_arguments, describe_leaves
from bridge._calls.plan import LeafInfo, Plan
from bridge._calls.planner import Planner
from bridge._calls.retracing import RetraceCounter
from bridge._core import pytree
from bridge._core.errors import ArgumentError

if TYPE_CHECKING:
    from bridge._calls.rewrapping import WrapperCounter

# NOTE [rows of arguments]
# Flattening the arguments and hashing their structure costs more than all else that a call does
# before the Op. Where all arguments are positional, and of classes that were leaves before, there
# is nothing to flatten, and the number of arguments stands for the structure.
# Of 3 MB each, which XLA takes for two small programs. Calls that go round one plan more than are
# kept are all traced again, so it is more than are met in practice.
_MOST_PLANS = 1024


def structure_key(structure: Any, count: int) -> Any:
    """Return the part of a plan's key that stands for a structure: NOTE [rows of arguments]."""
    return count if structure == pytree.args_structure(count) else structure


class PlanCache:
    """Makes plans, each once, and stores them.

    Attributes:
        wrapper_counter: Counts the wrappers of the same function that are traced, if it is known.
    """

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._leaf_handlers = planner.leaf_handlers
        self._plans: dict[Any, Plan] = {}
        self._retraces = RetraceCounter(planner.name)
        self._lock = threading.RLock()
        self.wrapper_counter: WrapperCounter | None = None

    @functools.cached_property
    def _trace_context(self) -> Callable[[], Hashable]:
        return self._planner.source.trace_context  # imported only now, for the first call

    def __len__(self) -> int:
        return len(self._plans)

    def strategies(self) -> list[str]:
        """Return the names of the strategies that derivatives have used so far."""
        return sorted(set[str]().union(*(p.op.used_strategies() for p in self._plans.values())))

    def find(self, leaves: Sequence[Any], structure_key: Any) -> Plan | None:
        """Return the plan for these leaves of this structure, if there is one."""
        handlers, key = self._leaf_handlers, [structure_key, self._trace_context()]
        try:
            for leaf in leaves:
                key.append(handlers[leaf.__class__].signature(leaf))
        except (KeyError, RuntimeError, ArgumentError):
            return None  # `Planner.describe_leaves` raises again, and names the argument
        return self._plans.get(tuple(key))

    def find_or_make(self, leaves: Sequence[Any], structure: Any) -> Plan:
        """Return the plan for these arguments; make it if there is none, store it if traced."""
        planner = self._planner
        with planner.target.suspend_transforms():
            leaf_infos = planner.describe_leaves(leaves, structure)
            key = self.key(leaves, structure, leaf_infos)
            if not planner.options.get("jit", True):
                return planner.make_plan(leaves, structure, leaf_infos)
            with self._lock:  # a trace can take minutes: threads that need the same one wait
                plan = self._plans.get(key)
                if plan is None:
                    plan = planner.make_plan(leaves, structure, leaf_infos)
                    self._store(key, plan)
                    if not plan.needs_seed:  # else the call is repeated with a key, or fails
                        self._count_trace(leaf_infos)
                return plan

    def key(self, leaves: Sequence[Any], structure: Any, leaf_infos: Sequence[LeafInfo]) -> Any:
        """Return the key of the plan for arguments that `leaf_infos` describe."""
        signatures = (info.signature for info in leaf_infos)
        return structure_key(structure, len(leaves)), self._trace_context(), *signatures

    def stored(self) -> dict[Any, Plan]:
        """Return the plans that there are now, by their keys."""
        return dict(self._plans)

    def _count_trace(self, leaf_infos: Sequence[LeafInfo]) -> None:
        if self.wrapper_counter is not None:
            self.wrapper_counter.record_trace()
        options = self._planner.options
        if options.get("capture") != "never" and options.get("compile", True):
            self._retraces.record(leaf_infos)

    def _store(self, key: Any, plan: Plan) -> None:
        while len(self._plans) >= _MOST_PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[key] = plan

    def rebuild(self, trace_context: str, arguments: str) -> Plan:
        """Return the plan for arguments that another process described."""
        planner = self._planner
        own_context = str(self._trace_context())
        if own_context != trace_context:
            raise ArgumentError(
                f"a program that calls {planner.name} was made where the default dtype of "
                f"{planner.frameworks[0]} was {trace_context}, and here it is "
                f"{own_context}. Set it, or export it again."
            )
        with self._lock:
            plan = self._plans.get((trace_context, arguments))
            if plan is None:
                leaves, structure = decode_arguments(arguments)
                labels = [
                    planner.parameters.argument_name(path) for path in pytree.paths(structure)
                ]
                leaf_infos = describe_leaves(leaves, labels, planner.frameworks[1])
                plan = planner.make_plan(leaves, structure, leaf_infos)
                self._store((trace_context, arguments), plan)
        return plan
