"""Interleaved timing: every contender runs in every round, so that a busy machine hits all."""

import statistics
import time
from collections.abc import Callable, Mapping


def medians(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 50, calls: int = 40
) -> dict[str, float]:
    """Microseconds a call of each contender takes, the median over the rounds."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        for _ in range(calls):
            call()
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            taken[name].append((time.perf_counter() - start) / calls * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def table(title: str, times: Mapping[str, float], *, floor: str) -> str:
    """A Markdown table of the times and their ratios to those of `floor`."""
    rows = [f"| {name} | {us:.1f} | {us / times[floor]:.2f} |" for name, us in times.items()]
    return "\n".join([f"### {title}", "", "| | us | ratio |", "|---|---|---|", *rows, ""])
