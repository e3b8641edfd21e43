"""The options of functions on NumPy arrays."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np

from bridge._core.errors import OptionError
from bridge._core.evaluation_counters import EvaluationCounters
from bridge._core.function_protocols import StructuredFunction
from bridge._core.gradient_rules import Rule
from bridge._sources.numpy.point_caller import PointCaller


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """The options of a wrapper: see `numpy2torch`.

    Attributes:
        counters: What counts the evaluations of the function.
    """

    gradient: Rule | Mapping[str, Rule] | None
    vectorized: bool
    batch_size: int | None
    executor: Executor | None
    dtype: Any
    out: Any
    max_points: int | None
    counters: EvaluationCounters

    def check(self) -> None:
        """Raise for options that cannot be."""
        rules = [*self.gradient.values()] if isinstance(self.gradient, Mapping) else [self.gradient]
        for rule in rules:
            if rule is not None and not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise OptionError(
                    f"gradient={rule!r} is no rule of bridge.rules. Pass one, such as "
                    "bridge.rules.FiniteDifference(), or a mapping from names of arguments to them."
                )
        if self.batch_size is not None and not self.vectorized:
            raise OptionError("batch_size= is for vectorized=True: else a call has one point.")
        for name in ("batch_size", "max_points"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise OptionError(f"{name}={number} has to be 1 or more.")
        if self.executor is not None and not hasattr(self.executor, "map"):
            raise OptionError(
                f"executor={self.executor!r} has no `map`, as those of concurrent.futures have."
            )
        if self.dtype is not None and np.dtype(self.dtype).kind != "f":
            raise OptionError(f"dtype={self.dtype!r} is no floating dtype.")

    def make_caller(self, name: str) -> PointCaller:
        """Make what calls the function `name` at many points."""
        return PointCaller(
            name=name,
            vectorized=self.vectorized,
            batch_size=self.batch_size,
            executor=self.executor,
            counters=self.counters,
        )

    def rule_of(self, argument: str) -> Rule | None:
        """Return the rule of an argument: that of the longest name which it is or is a part of."""
        if not isinstance(self.gradient, Mapping):
            return self.gradient
        names = [name for name in self.gradient if _is_part(argument, name)]
        return self.gradient[max(names, key=len)] if names else None

    def check_names(self, arguments: list[str], fn: StructuredFunction, name: str) -> None:
        """Raise if a rule is for an argument that there is none of."""
        if not isinstance(self.gradient, Mapping):
            return
        for key in self.gradient:
            parameter = key.split("[")[0]
            is_absent = not any(_is_part(argument, parameter) for argument in arguments)
            is_known = any(_is_part(argument, key) for argument in arguments)
            if is_known or (is_absent and fn.takes(parameter)):
                continue
            raise OptionError(
                f"gradient= names {key!r}, no array among the arguments of {name}: "
                f"{', '.join(arguments)}."
            )


def _is_part(argument: str, name: str) -> bool:
    """Return True if `p['w'][0]` is what a name, such as `p["w"]`, says, or is a part of it."""
    return (argument + "[").startswith(name.replace('"', "'") + "[")
