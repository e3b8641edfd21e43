"""What was measured, with what was to be reached."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Bar:
    """A ratio to reach, or to know.

    Attributes:
        text: The bar in words.
        subject: The contender it is about.
        reference: The contender it is divided by.
        limit: The largest ratio that is a hit; `None` where the ratio is only reported.
    """

    text: str
    subject: str
    reference: str
    limit: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One case with all its contenders.

    Attributes:
        title: The case in words.
        unit: Of the values.
        values: For each contender one value a round; values of one round are comparable.
        reference: The contender that all others are divided by in the table.
        bars: What is to be reached here.
        missing: For each contender that could not take part, why.
        notes: What a reader of the table should know.
        grows_by: What the numbers count that the contenders begin with; "" if they are no sizes.
    """

    title: str
    unit: str
    values: Mapping[str, Sequence[float]]
    reference: str
    bars: Sequence[Bar] = ()
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    grows_by: str = ""

    def median(self, name: str) -> float:
        """The median of a contender over the rounds."""
        return statistics.median(self.values[name])

    def ratio(self, subject: str, reference: str) -> float:
        """The median over the rounds of the ratio within a round, which a slow phase cancels in."""
        pairs = zip(self.values[subject], self.values[reference], strict=True)
        return statistics.median(one / other for one, other in pairs)


def hit(measured: float, bar: Bar) -> str:
    """`hit` or `miss`, and nothing where there is no limit."""
    if bar.limit is None:
        return ""
    return "hit" if measured <= bar.limit else "miss"
