"""A function without autodiff that is called from a framework."""

from collections.abc import Sequence
from typing import Any

from bridge import _registry
from bridge._calls.bridged_function import BridgedFunction
from bridge._core.evaluation_counters import EvaluationCounters


class BlackBoxFunction(BridgedFunction):
    """A function on NumPy arrays that is called from a framework; `numpy2torch` makes them."""

    def __init__(self, fn: Any, *, options: dict[str, Any], **others: Any) -> None:
        self._counters: EvaluationCounters = options.get("counters") or EvaluationCounters()
        super().__init__(fn, options={**options, "counters": self._counters}, **others)

    @property
    def evaluations(self) -> int:
        """The number of points at which the function, or a derivative of it, was evaluated."""
        return self._counters.evaluations

    @property
    def calls(self) -> int:
        """The number of calls in which it was evaluated: of a vectorized function, fewer."""
        return self._counters.calls

    def check_rules(
        self, args: Sequence[Any], kwargs: dict[str, Any], *, atol: float, seed: int
    ) -> None:
        """Raise an `AssertionError` if the rule of an argument is wrong for these arguments."""
        args, kwargs = self._normalize(args, kwargs)
        leaves, structure = self.flatten(args, kwargs)
        plan, infos = (
            self.plans.find_or_make(leaves, structure),
            self._planner.describe_leaves(leaves, structure),
        )
        lend = _registry.target_arrays(self._target_name).lender("cpu")
        xs = _registry.source_arrays(self._source_name).borrower("cpu")(
            lend(plan.select_arrays(leaves))
        )
        names = [info.name for info in infos if info.spec]
        source: Any = self._source  # only this source has rules
        source.check_rules(plan.op, xs, names, atol=atol, seed=seed, options=self._options)

    def __repr__(self) -> str:
        gradient, vectorized = self._options["gradient"], self._options["vectorized"]
        return (
            f"<{self._source_name}2{self._target_name} {self._name} (gradient={gradient!r}, "
            f"vectorized={vectorized}), {self.evaluations} evaluations in {self.calls} calls>"
        )

    def _picklable_options(self) -> dict[str, Any]:
        """Return the options without what belongs to this process."""
        options = {name: value for name, value in self._options.items() if name != "counters"}
        return {**options, "executor": None}
