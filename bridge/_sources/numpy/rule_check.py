"""A check of gradient rules by values alone."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from bridge._core.errors import ArgumentError
from bridge._core.gradient_rules import SPSA, ParameterShift, Rule
from bridge._core.op import Op
from bridge._core.spec import differentiable_positions
from bridge._sources.numpy.elements import to_real_elements
from bridge._sources.numpy.precision import machine_epsilon
from bridge._sources.numpy.stencils import difference_stencil

_TESTED_SHIFTS = 4  # at each element, beside those of the interpolation
_CANDIDATES = 20
_ACCURACY = 4


@dataclasses.dataclass(frozen=True, eq=False)
class RuleCheck:
    """A check of the rules of one function at some arguments.

    Attributes:
        op: The function.
        name: Its name in errors.
        xs: The arguments.
        argument_names: What the user calls them.
        rules: The rule of each.
        atol: The tolerance, relative to values that are larger than 1.
        random: What shifts and cotangents are drawn from.
    """

    op: Op
    name: str
    xs: Sequence[np.ndarray]
    argument_names: Sequence[str]
    rules: Sequence[Rule | None]
    atol: float
    random: np.random.Generator

    def check(self) -> None:
        """Raise an `AssertionError` for the first element whose rule is wrong."""
        checked = [i for i, rule in enumerate(self.rules) if rule and self._is_floating(i)]
        if not checked:
            raise ArgumentError(f"no argument of {self.name} has a rule that could be checked.")
        for i in checked:
            rule = self.rules[i]
            if isinstance(rule, SPSA):
                raise ArgumentError(
                    f"argument {self.argument_names[i]} of {self.name} has the rule SPSA, whose "
                    "gradients are random: there is no single value to compare."
                )
            if isinstance(rule, ParameterShift):
                self._check_frequencies(i, rule)
            else:
                self._check_gradient(i)
                # Derivatives have the frequencies of the function.
                then = getattr(rule, "then", None)
                if isinstance(then, ParameterShift):
                    self._check_frequencies(i, then)

    def _is_floating(self, i: int) -> bool:
        return self.xs[i].dtype.kind in "fc" or self.xs[i].dtype.name == "bfloat16"

    def _label(self, i: int, element: int) -> str:
        index = ", ".join(map(str, np.unravel_index(element, self.xs[i].shape)))
        return f"{self.argument_names[i]}{f'[{index}]' if index else ''}"

    def _values(self, i: int, element: int, shifts: np.ndarray) -> list[np.ndarray]:
        """Return the differentiable outputs where one element is shifted, one row for each."""
        moved = np.repeat(self.xs[i][None], len(shifts), 0)
        moved.reshape(len(shifts), -1)[:, element] += shifts.astype(moved.dtype)
        axes = tuple(0 if n == i else None for n in range(len(self.xs)))
        batched = self.op.derive("vmap", axes, len(shifts))
        outputs = batched.call(*(moved if n == i else x for n, x in enumerate(self.xs)))
        return [
            to_real_elements(outputs[o].reshape(len(shifts), -1)).astype(float)
            for o in differentiable_positions(self.op.output_specs())
        ]

    def _check_frequencies(self, i: int, rule: ParameterShift) -> None:
        """Compare values with the trigonometric interpolation through others."""
        rows = rule.rows()
        for element in range(self.xs[i].size):
            frequencies = np.asarray(rows[element if len(rows) > 1 else 0])
            nodes = self._nodes(frequencies)
            tested = self.random.uniform(-math.pi, math.pi, _TESTED_SHIFTS) / frequencies.min()
            values = np.concatenate(self._values(i, element, np.append(nodes, tested)), 1)
            coefficients = np.linalg.solve(_basis(frequencies, nodes), values[: len(nodes)])
            expected = _basis(frequencies, tested) @ coefficients
            for shift, actual, interpolated in zip(
                tested, values[len(nodes) :], expected, strict=True
            ):
                worst = int(np.abs(actual - interpolated).argmax())
                self._compare(
                    f"{self.name} is no sum of the frequencies {tuple(frequencies.tolist())} in "
                    f"{self._label(i, element)}: shifted by {shift:.4g} it returns {{0}}, where "
                    "the interpolation through other shifts gives {1}. An angle that enters R "
                    "rotations has the frequencies 1..R.",
                    actual[worst],
                    interpolated[worst],
                )

    def _nodes(self, frequencies: np.ndarray) -> np.ndarray:
        """Return shifts that determine a sum of these frequencies well."""
        count = 2 * len(frequencies) + 1
        candidates = self.random.uniform(-math.pi, math.pi, (_CANDIDATES, count))
        candidates[0] = (np.arange(count) / count - 0.5) * 2 * math.pi + candidates[0, 0] / count
        candidates = candidates / frequencies.min()
        return min(candidates, key=lambda nodes: np.linalg.cond(_basis(frequencies, nodes)))

    def _check_gradient(self, i: int) -> None:
        """Compare the gradient by the rule with differences, for random cotangents."""
        specs = self.op.output_specs()
        outnums = differentiable_positions(specs)
        cotangents = [
            self.random.normal(size=specs[o].shape).astype(specs[o].dtype) for o in outnums
        ]
        gradient = self.op.derive("vjp", (i,), outnums).call(*self.xs, *cotangents)[0].ravel()
        for element, difference in enumerate(self._differences(i, cotangents)):
            self._compare(
                f"the gradient of {self.name} by {self._label(i, element)} is {{0}} by its rule, "
                "and {1} by differences, for random cotangents.",
                float(np.real(gradient[element])),
                difference,
            )

    def _differences(self, i: int, cotangents: Sequence[np.ndarray]) -> Iterator[float]:
        """Yield the derivative by each element, its real part where it is complex."""
        coefficients, nodes = difference_stencil(_ACCURACY, "center")
        epsilon = machine_epsilon(np.result_type(self.xs[i].dtype, np.float32))
        for element, x in enumerate(self.xs[i].ravel()):
            step = epsilon ** (1 / (_ACCURACY + 1)) * max(1, abs(x))
            values = self._values(i, element, nodes * step)
            yield sum(
                float(coefficients @ (y @ to_real_elements(w.ravel()))) / step
                for y, w in zip(values, cotangents, strict=True)
            )

    def _compare(self, text: str, actual: float, expected: float) -> None:
        if not abs(actual - expected) <= self.atol * max(1, abs(expected)):
            raise AssertionError(text.format(f"{actual:.6g}", f"{expected:.6g}"))


def _basis(frequencies: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    angles = np.outer(shifts, frequencies)
    return np.concatenate([np.ones((len(shifts), 1)), np.cos(angles), np.sin(angles)], 1)
