"""The measurements as a figure."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks._report import measured
from benchmarks._results import Measurement, hit

_COLORS = {"hit": "#2a7f62", "miss": "#c0392b"}


def draw(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a figure: how far each ratio is from its bar, and the contenders of a small call."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _bars(left, measurements)
    _contenders(right, measurements[0])
    figure.savefig(path, dpi=150)


def draw_growth(measurements: Sequence[Measurement], path: Path) -> None:
    """Write a figure of what a call costs by its size: straight lines, unless there is a cliff."""
    kinds = list(dict.fromkeys(m.grows_by for m in measurements if m.grows_by))
    if not kinds:
        return
    figure = Figure(figsize=(4 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for measurement in measurements:
            if measurement.grows_by == kind:
                sizes = [int(name.split()[0]) for name in measurement.values]
                medians = [measurement.median(name) for name in measurement.values]
                label = measurement.title.split()[3]  # "a call of jax2torch by arrays"
                axes.plot(sizes, medians, marker="o", markersize=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel=kind, ylabel="median us a call")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 3, high * 3)  # else noise would look like a cliff where a line is flat
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _bars(axes: Axes, measurements: Sequence[Measurement]) -> None:
    rows = [
        (f"{measurement.title}\n{bar.text}", max(value, 0.0) / bar.limit, hit(value, bar))
        for measurement, bar, value in measured(measurements)
        if bar.limit
    ]
    for at, (_, share, verdict) in enumerate(rows):
        axes.barh(at, share, color=_COLORS[verdict])
        axes.text(share, at, f" {share:.2f}", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured ratio, as a share of the bar (below 1: hit)")
    axes.spines[["top", "right"]].set_visible(False)


def _contenders(axes: Axes, measurement: Measurement) -> None:
    times = sorted((measurement.median(name), name) for name in measurement.values)
    for at, (median, _) in enumerate(times):
        axes.barh(at, median, color="#34607f")
        axes.text(median, at, f" {median:.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(times)), [name for _, name in times], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"median {measurement.unit}")
    axes.set_title(measurement.title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
