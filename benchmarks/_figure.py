"""The results as figures, from the JSON that a run has written: `nox -s figures` redraws them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_COLORS = {True: "#2a7f62", False: "#c0392b"}  # by hit or miss
Case = Mapping[str, Any]  # as `_report.data` writes it


def draw(folder: Path) -> None:
    """Draw results.png and growth.png beside the results.json of this folder."""
    cases = json.loads((folder / "results.json").read_text())["cases"]
    _draw_bars(cases, folder / "results.png")
    _draw_growth(cases, folder / "growth.png")


def _draw_bars(cases: Sequence[Case], path: Path) -> None:
    """How far each ratio is from its bar."""
    rows = [(case["title"], bar) for case in cases for bar in case["bars"] if bar["limit"]]
    if not rows:
        return
    figure = Figure(figsize=(13, 0.8 + 0.19 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for at, (_, bar) in enumerate(rows):
        share = max(bar["ratio"], 0.0) / bar["limit"]
        axes.barh(at, share, color=_COLORS[share <= 1])
        axes.text(share, at, f" {bar['ratio']:.2f}", va="center", fontsize=7)
    labels = [f"{title}: {bar['text']}" for title, bar in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("measured ratio (the number), as a share of the bar; below 1: hit")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def _draw_growth(cases: Sequence[Case], path: Path) -> None:
    """What a call costs by its size: straight lines, unless there is a cliff."""
    kinds = list(dict.fromkeys(case["grows_by"] for case in cases if case["grows_by"]))
    if not kinds:
        return
    figure = Figure(figsize=(4 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        sizes: list[int] = []
        for case in cases:
            if case["grows_by"] == kind:
                sizes = [int(name.split()[0]) for name in case["quartiles"]]
                medians = [quartiles[1] for quartiles in case["quartiles"].values()]
                label = case["title"].split()[3]  # "a call of jax2torch by arrays"
                axes.plot(sizes, medians, marker="o", markersize=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel=kind, ylabel="median us a call")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=7, minor=False)
        axes.set_xticks([], minor=True)
        low, high = axes.get_ylim()
        axes.set_ylim(low / 3, high * 3)  # else noise would look like a cliff where a line is flat
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    draw(Path(__file__).parent)
