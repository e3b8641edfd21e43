"""A function on NumPy arrays, evaluated at points; what it returns is learned from its values."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._core.errors import ArgumentError, NoRuleError, OptionError
from bridge._core.function_protocols import StructuredFunction
from bridge._core.gradient_rules import Jvp, Rule, UserRule
from bridge._core.op import Arrays, Positions, Specs
from bridge._core.spec import ArraySpec
from bridge._sources.numpy.elements import is_complex
from bridge._sources.numpy.forms import Result
from bridge._sources.numpy.moves import Block, Direction
from bridge._sources.numpy.noise import (
    Directions,
    Generators,
    directions_from_keys,
    draw_directions,
)
from bridge._sources.numpy.point_batch import PointBatch
from bridge._sources.numpy.point_caller import AsArray, PointCaller
from bridge._sources.numpy.precision import machine_epsilon
from bridge._sources.numpy.user_rules import UserDerivative


@dataclasses.dataclass(eq=False, kw_only=True)
class BlackBox:
    """A function of flat arrays that cannot be looked into.

    Attributes:
        flat_fn: The function.
        name: Its name in errors.
        primals: The specs of its arguments.
        argument_names: What the user calls them.
        rules: The gradient rule of each argument; None where it has none.
        caller: Calls it at many points.
        compute_dtype: What floating arguments are converted to; None if they stay as they are.
        seed_argnum: The argument that is the key of its random numbers, if it draws any.
        max_points: How many points a derivative may take; None for any number.
        known_outputs: The specs of its results, once they are known.
    """

    flat_fn: StructuredFunction
    name: str
    primals: Specs
    argument_names: Sequence[str]
    rules: Sequence[Rule | None]
    caller: PointCaller
    compute_dtype: np.dtype | None = None
    max_points: int | None = None
    seed_argnum: int | None = None
    known_outputs: Specs | None = None

    def __post_init__(self) -> None:
        floats = [np.dtype(spec.dtype) for spec in self.primals if spec.differentiable]
        widest = np.result_type(*floats) if floats else np.dtype("float64")
        self._precision = np.real(np.empty(0, widest)).dtype
        weak = None if self.compute_dtype else self._in_precision
        self._as_array = AsArray(
            {kind: weak(np.dtype(kind)) for kind in (float, complex)} if weak else {}
        )
        self._checked_kinds: list[tuple[tuple[int, ...], np.dtype]] | None = None

    @property
    def reuses_outputs(self) -> bool:
        """True if differences may take the outputs that were returned for values.

        With common noise, the gradient of a square would be biased, and rounded outputs have fewer
        digits than steps are made for.
        """
        return self.seed_argnum is None and self.compute_dtype is None

    @property
    def outputs(self) -> Specs:
        """The specs of its results, with one evaluation if they are not known yet."""
        if self.known_outputs is None:
            self.evaluate(self._example_batch())
        assert self.known_outputs is not None
        return self.known_outputs

    def _example_batch(self) -> PointBatch:
        """Return one point of example inputs: NOTE [example inputs]."""
        generator = np.random.default_rng(0)
        primals = [
            self.to_compute_dtype(
                generator.random(spec.shape).astype(spec.dtype)
                if spec.differentiable
                else np.zeros(spec.shape, spec.dtype)
            ).reshape(1, -1)
            for spec in self.primals
        ]
        return PointBatch(None, 1, primals, frozenset(), {}, None, 0, _describe_example)

    def spec_of(self, result: Result) -> ArraySpec:
        """Return the spec of one example of a result."""
        return (self.primals if result.kind == "gradient" else self.outputs)[result.position]

    # Rules.

    def rule(self, argnum: int) -> Rule:
        """Return the rule of an argument; raise if it has none."""
        rule = self.rules[argnum]
        if rule is None:
            raise NoRuleError(
                f"argument {self.argument_names[argnum]} of {self.name} has no gradient rule. Pass "
                "`gradient=`, such as bridge.rules.FiniteDifference(), or detach the argument."
            )
        return rule

    def rule_of_shifts(self, argnum: int) -> Rule:
        """Return the rule by which a derivative of the user is differentiated by an argument."""
        rule = self.rule(argnum)
        if not isinstance(rule, UserRule):
            return rule
        if rule.then is None:
            raise NoRuleError(
                f"the {type(rule).__name__} of {self.name} is differentiated by argument "
                f"{self.argument_names[argnum]}, and has no rule for that. Pass `then=` to it, "
                "such as bridge.rules.FiniteDifference()."
            )
        return rule.then

    def direction(self, argnum: int, input: int | None) -> Direction:
        """Describe a direction in which an argument is moved."""
        spec = self.primals[argnum]
        dtype = self.to_compute_dtype(np.empty(0, spec.dtype)).dtype.name
        name = f"argument {self.argument_names[argnum]} of {self.name}"
        spec = dataclasses.replace(spec, dtype=dtype)
        return Direction(argnum, input, spec, name, self._epsilon)

    @functools.cached_property
    def _epsilon(self) -> float:
        """The coarsest relative precision among arguments and results."""
        dtypes = [
            self.to_compute_dtype(np.empty(0, spec.dtype)).dtype
            for spec in self.primals
            if spec.differentiable
        ]
        results = [dtype for _, dtype in self._checked_kinds or ()]
        outputs = [] if self.compute_dtype else [np.dtype(spec.dtype) for spec in self.outputs]
        floating = [
            d for d in (*dtypes, *results, *outputs) if ArraySpec((), d.name).differentiable
        ]
        return max(map(machine_epsilon, floating))

    def random_directions(
        self, primals: Sequence[np.ndarray], blocks: Sequence[tuple[Block, Positions]], tag: int
    ) -> Directions:
        """Draw random signs for each element of the arguments of each block."""
        if self.seed_argnum is None:
            return draw_directions(primals, blocks, self.caller.counters.generators)
        return directions_from_keys(primals, blocks, primals[self.seed_argnum], tag)

    # Values.

    def evaluate(self, batch: PointBatch) -> dict[Any, np.ndarray]:
        """Return the results of a callee at points, along the first axis, by position."""
        primals: list[Any] = batch.stacked_primals(self.primals)
        if self.seed_argnum is not None:
            i = self.seed_argnum
            primals[i] = Generators(primals[i], batch.tag, batch.points_per_example)
        if batch.user_rule is not None:
            return self._evaluate_rule(batch, primals)
        if not batch.total:
            return {
                i: np.empty((0, *spec.shape), spec.dtype) for i, spec in enumerate(self.outputs)
            }
        results = self.caller(
            self.flat_fn,
            primals,
            batch.total,
            batch.describe_any,
            self._as_array,
            knows_results=self.known_outputs is not None,
        )
        moved_off_axis = [
            i
            for i, (x, spec) in enumerate(zip(primals, self.primals, strict=True))
            if np.iscomplexobj(x) and not is_complex(spec)
        ]
        self._check(results, [self.argument_names[i] for i in moved_off_axis])
        return dict(enumerate(results))

    def call(self, xs: Sequence[np.ndarray], tag: int) -> Arrays:
        """Return the results at one point: `evaluate` without what it does for several."""
        arrays: list[Any] = [np.array(self.to_compute_dtype(x))[None] for x in xs]
        if self.seed_argnum is not None:
            arrays[self.seed_argnum] = Generators(arrays[self.seed_argnum], tag, 1)
        results = self.caller(self.flat_fn, arrays, 1, _no_description, self._as_array)
        self._check(results, ())
        dtypes = [spec.dtype for spec in self.outputs]
        return tuple([np.array(y[0], d) for y, d in zip(results, dtypes, strict=True)])

    def _evaluate_rule(
        self, batch: PointBatch, primals: Sequence[np.ndarray]
    ) -> dict[Any, np.ndarray]:
        """Return the results of a derivative that the user gave, by position."""
        specs = self.primals if isinstance(batch.user_rule, Jvp) else self.outputs
        derivative = UserDerivative(batch.user_rule, self, list(batch.linear))
        arrays = [
            *primals,
            *(batch.stack(self.to_compute_dtype(x), specs[i]) for i, x in batch.linear.items()),
            *(batch.stack(y, self.outputs[i]) for i, y in (batch.outputs or {}).items()),
        ]
        if not batch.total:
            values = derivative.empty()
        else:
            values = self.caller(derivative, arrays, batch.total, batch.describe_any, np.array)
        return dict(zip(derivative.positions, values, strict=True))

    def _check(self, results: Sequence[np.ndarray], complex_steps: Sequence[str]) -> None:
        """Learn the specs of the results, or raise if they are others than before."""
        kinds = [(y.shape[1:], y.dtype) for y in results]
        if kinds == self._checked_kinds and not complex_steps:
            return
        specs = tuple(self.rounded_spec(ArraySpec(y.shape[1:], y.dtype.name)) for y in results)
        if complex_steps:
            specs = self._real_specs(specs, complex_steps[0])
        if self.known_outputs is None:
            # Not on later calls: XLA's threads do not know the mode that the caller has set.
            self.flat_fn.check_result_specs(specs)
            self.known_outputs = specs
        if specs != self.known_outputs:
            raise self._unexpected_results(specs)
        if not complex_steps:
            self._checked_kinds = kinds

    def _unexpected_results(self, specs: Specs) -> ArgumentError:
        known = self.known_outputs or ()
        returned, expected = (", ".join(map(str, each)) for each in (specs, known))
        advice = "Results have to have the same shapes and dtypes at all points, as out= says them."
        if [spec.shape for spec in specs] == [spec.shape for spec in known]:
            advice += (
                ' If the function computes in double precision, pass dtype="float64" where it is '
                "wrapped: then its results are rounded to the precision of its arguments."
            )
        return ArgumentError(
            f"{self.name} returned ({returned}), but ({expected}) before. {advice}"
        )

    def check_point_count(self, count: int) -> None:
        """Raise if a derivative takes more points than the user allows."""
        if self.max_points is not None and count > self.max_points:
            raise OptionError(
                f"a derivative of {self.name} takes {count} points, and "
                f"max_points={self.max_points}."
            )

    def _real_specs(self, specs: Specs, argument: str) -> Specs:
        """Return the specs without the imaginary parts of complex steps; raise if one has none."""
        real = list(specs)
        for i, known in enumerate(self.outputs):
            if not known.differentiable:
                continue
            if is_complex(known) or not is_complex(specs[i]):
                kind = "complex numbers" if is_complex(known) else "real numbers for complex ones"
                raise ArgumentError(
                    f"ComplexStep reads the derivative of {self.name} by {argument} from the "
                    f"imaginary part of a real function, but its result {i} has {kind}."
                )
            # They are of double precision, whatever the arguments are.
            real[i] = dataclasses.replace(specs[i], dtype=known.dtype)
        return tuple(real)

    def rounded_spec(self, spec: ArraySpec) -> ArraySpec:
        """Return what the caller gets for a result of this spec."""
        if self.compute_dtype is None:
            return spec
        return dataclasses.replace(spec, dtype=self._in_precision(np.dtype(spec.dtype)).name)

    def _in_precision(self, dtype: np.dtype) -> np.dtype:
        if dtype.kind == "c":
            return np.result_type(self._precision, np.complex64)
        return self._precision if _is_real_floating(dtype) else dtype

    def to_compute_dtype(self, x: np.ndarray) -> np.ndarray:
        """Return an array in the dtype that is computed with."""
        if self.compute_dtype is None:
            return x
        if x.dtype.kind == "c":
            return x.astype(np.result_type(self.compute_dtype, np.complex64))
        return x.astype(self.compute_dtype) if _is_real_floating(x.dtype) else x


def _no_description(_: int) -> str:
    return ""


def _describe_example(_: int) -> str:
    return "at example inputs, since `out=` does not say what it returns"


def _is_real_floating(dtype: np.dtype) -> bool:
    return ArraySpec((), dtype.name).differentiable and dtype.kind != "c"
