"""The measurements as Markdown."""

from collections.abc import Iterable, Iterator, Sequence

from benchmarks._contenders import OURS
from benchmarks._results import Bar, Measurement, hit


def details(measurement: Measurement) -> str:
    """One case: the median of each contender and its ratio to the reference."""
    reference = measurement.reference
    rows = [
        f"| {name} | {_number(measurement.median(name))} | "
        f"{_number(measurement.ratio(name, reference))} |"
        for name in measurement.values
    ]
    rows += [f"| {name} | {why} | |" for name, why in measurement.missing.items()]
    heading = f"| | median {measurement.unit} | ratio to {reference} |"
    lines = [f"### {measurement.title}", "", heading, "|---|---:|---:|", *rows, ""]
    if measurement.notes:
        lines += [*measurement.notes, ""]
    return "\n".join(lines)


def bars(measurements: Iterable[Measurement]) -> str:
    """All bars: the ratio measured, and hit or miss."""
    rows = [
        f"| {measurement.title} | {bar.text} | {ratio} | {hit(value, bar) or 'reported'} |"
        for measurement, bar, value in measured(measurements)
        for ratio in [_number(value)]
    ]
    return "\n".join(["| case | bar | measured ratio | |", "|---|---|---:|---|", *rows, ""])


def measured(measurements: Iterable[Measurement]) -> Iterator[tuple[Measurement, Bar, float]]:
    """Each bar with the ratio that was measured."""
    for measurement in measurements:
        for bar in measurement.bars:
            yield measurement, bar, measurement.ratio(bar.subject, bar.reference)


def document(measurements: Sequence[Measurement], machine: str) -> str:
    """The whole table, with what it was measured on."""
    return "\n".join(
        [
            "# Results",
            "",
            "Written by `python -m benchmarks`; README.md says what is measured.",
            "",
            f"{machine}.",
            "",
            "![Ratios to the bars, and microseconds of a small call](results.png)",
            "",
            "## Bars",
            "",
            f"`{OURS}` is the function with its default options.",
            "A ratio is the median over the rounds of the ratio within a round.",
            "",
            bars(measurements),
            "## Details",
            "",
            *(details(measurement) for measurement in measurements),
        ]
    )


def _number(value: float) -> str:
    """Three significant digits, and four places below a hundredth, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if 0 < abs(value) < 0.01:
        return f"{value:.4f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
