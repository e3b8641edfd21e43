"""The measurements as text: Markdown to read, JSON to draw figures from."""

import json
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
            "![Ratios as shares of their bars](results.png)",
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


def data(measurements: Sequence[Measurement], machine: str) -> str:
    """All cases as JSON: of each contender the quartiles over the rounds, and the ratios."""
    cases = [
        {
            "title": measurement.title,
            "unit": measurement.unit,
            "reference": measurement.reference,
            "quartiles": {
                name: _quartiles(measurement.values[name]) for name in measurement.values
            },
            "ratios": {
                name: _rounded(measurement.ratio(name, measurement.reference))
                for name in measurement.values
            },
            "bars": [
                {"text": bar.text, "limit": bar.limit, "ratio": _rounded(ratio)}
                for _, bar, ratio in measured([measurement])
            ],
            "missing": dict(measurement.missing),
            "grows_by": measurement.grows_by,
        }
        for measurement in measurements
    ]
    return json.dumps({"machine": machine, "cases": cases}, indent=1) + "\n"


def _quartiles(values: Sequence[float]) -> list[float]:
    """The lower quartile, the median and the upper one."""
    ordered = sorted(values)
    places = [len(ordered) // 4, len(ordered) // 2, len(ordered) * 3 // 4]
    return [_rounded(ordered[place]) for place in places]


def _rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def _number(value: float) -> str:
    """Three significant digits, and four places below a hundredth, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if 0 < abs(value) < 0.01:
        return f"{value:.4f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
