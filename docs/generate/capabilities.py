"""What the transformations of each target do with a function of each source, by trying them."""

from collections.abc import Callable
from typing import Any

import numpy as np

import bridge
from generate.frameworks import DIRECTIONS, FRAMEWORKS, Framework, bridged, head, row

X = [0.5, -1.25, 2.0]
VALUES = np.array(X, np.float32)
# Each on f(x) = x**3, with what it is by hand.
ABILITIES: dict[str, tuple[Callable[[Framework, Callable[..., Any], Any], Any], np.ndarray]] = {
    "gradient": (lambda to, f, x: to.grad(lambda x: f(x).sum())(x), 3 * VALUES**2),
    "higher orders": (
        lambda to, f, x: to.grad(lambda x: to.grad(lambda x: f(x).sum())(x).sum())(x),
        6 * VALUES,
    ),
    "forward mode": (lambda to, f, x: to.jvp(f, x, 2 * x), 6 * VALUES**3),
    "batching": (lambda to, f, x: to.vmap(f)(x), VALUES**3),
    "compiling": (lambda to, f, x: to.compile(lambda x: f(x) + 1)(x), VALUES**3 + 1),
}


def _verdict(source: str, target: str, ability: str) -> str:
    attempt, by_hand = ABILITIES[ability]
    to = FRAMEWORKS[target]
    f = bridged(source, target, lambda x: x * x * x)
    try:
        found = np.array(attempt(to, f, to.array(X)))
    # MLX turns an error that is raised while it evaluates into a ValueError.
    except (bridge.BridgeError, ValueError):
        return "refused"
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    return "yes"


def table() -> str:
    """A row for each direction, a column for each ability."""
    text = head("direction", *ABILITIES)
    for source, target in DIRECTIONS:
        verdicts = [_verdict(source, target, ability) for ability in ABILITIES]
        text += row(f"`{source}2{target}`", *verdicts)
    return text
