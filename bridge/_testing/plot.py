"""Figures of what a check has found, by matplotlib."""

from collections.abc import Sequence
from typing import Any

from bridge._core.errors import MissingFrameworkError


def draw_errors(
    steps: Sequence[float], errors: Sequence[float], *, chosen: float, name: str, plot: Any
) -> None:
    """Draw errors of finite differences against their steps, on axes or into a file.

    Both scales are logarithmic: a right gradient gives a V, whose left arm is rounding and whose
    right arm is curvature, and a wrong one a floor. `chosen` is the step of the check.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingFrameworkError(
            "plot= draws with matplotlib, which is not installed. Install it with: pip install "
            "matplotlib"
        ) from error
    figure = None if hasattr(plot, "plot") else Figure(layout="constrained")
    axes: Any = plot if figure is None else figure.subplots()
    axes.loglog(steps, errors, marker="o", markersize=3)
    axes.axvline(chosen, color="gray", linestyle=":", label=f"step of the check, {chosen:.0e}")
    axes.set(
        xlabel="step of the finite differences",
        ylabel="relative error along a random direction",
        title=f"gradient of {name}",
    )
    axes.legend()
    if figure is not None:
        figure.savefig(plot)
