"""What differs between implementations, told as a person would."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bridge._testing.numpy import arrays, differences
from bridge._testing.numpy.differences import Tolerance
from bridge._testing.stages import Results

_MANY_LINES = 8


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Results of several implementations beside one another.

    Attributes:
        what: What was computed: `values`, `jvp of vjp`.
        output_labels: Names of the results.
        results: Those of each implementation.
        tolerances: How far each may be apart.
    """

    what: str
    output_labels: Sequence[str]
    results: Results
    tolerances: Sequence[Tolerance]

    def largest_error(self) -> float:
        """Return the largest difference to the first implementation, in units of its own size."""
        first, *others = self.results.values()
        pairs = [pair for other in others for pair in zip(other, first, strict=True)]
        return max((differences.relative_error(x, y) for x, y in pairs), default=0.0)

    def describe_difference(self) -> str:
        """Return what differs from what most implementations agree on; "" if nothing does."""
        lines = {(a, b): self._lines(a, b) for a in self.results for b in self.results if a != b}
        agreeing = {
            b: [a for a in self.results if a != b and not lines[a, b]] for b in self.results
        }
        reference = max(self.results, key=lambda label: len(agreeing[label]))
        differing = [a for a in self.results if a != reference and lines[a, reference]]
        if not differing:
            return ""
        agree = join([reference, *agreeing[reference]])
        text = f"{self.what}: {join(differing)} {_verb(differing, 'differ')} from {agree}"
        if agreeing[reference]:
            text += ", which agree"
        listed = [line for label in differing for line in lines[label, reference]]
        if len(listed) > _MANY_LINES:
            listed = [*listed[:_MANY_LINES], f"and so do {len(listed) - _MANY_LINES} more arrays"]
        return "\n  ".join([f"{text}.", *listed])

    def _lines(self, label: str, reference: str) -> list[str]:
        """Return a line for each result of one implementation that differs from another's."""
        pairs = zip(self.results[label], self.results[reference], strict=True)
        found = [self._line(i, (label, x), (reference, y)) for i, (x, y) in enumerate(pairs)]
        return [line for line in found if line]

    def _line(self, index: int, one: tuple[str, Any], other: tuple[str, Any]) -> str:
        name = self.output_labels[index]
        (label, x), (reference, y) = one, other
        shapes, kinds = (list(x.shape), list(y.shape)), (arrays.kind(x), arrays.kind(y))
        for verb, (a, b) in {"has shape": shapes, "holds": kinds}.items():
            if a != b:
                return f"{name} {verb} {a} in {label}, and {b} in {reference}"
        difference = differences.compare(x, y, self.tolerances[index])
        if difference is None:
            return ""
        place = f"{name} at {list(difference.index)}" if difference.index else name
        values = [_number(value) for value in difference.values]
        line = f"{place} is {values[0]} in {label}, and {values[1]} in {reference}"
        line += f": the largest error, {difference.error:.3g}"
        if x.size > 1:
            line += f", of {difference.count} among {x.size} elements that differ"
        if difference.conjugated:
            line += ". Conjugated it would agree"
        return line


def describe_tolerance(tolerance: Tolerance) -> str:
    """Return the tolerance as a reader of code would write it."""
    if tolerance.atol is not None:
        return f"rtol={tolerance.rtol:.2g}, atol={tolerance.atol:.2g}"
    return f"rtol={tolerance.rtol:.2g}, atol={tolerance.rtol:.2g} times the largest element"


def choose_tolerance(
    precision: float, order: int, rtol: float | None, atol: float | None
) -> Tolerance:
    """Return the tolerance for values, or derivatives of an order, of a precision."""
    power = 0.5 if order else 0.75
    return Tolerance(precision**power if rtol is None else rtol, atol, 10 * precision)


def join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: Sequence[str], verb: str) -> str:
    return verb if len(names) > 1 else f"{verb}s"


def _number(value: complex) -> str:
    return f"{value:.6g}" if isinstance(value, float | complex) else str(value)
