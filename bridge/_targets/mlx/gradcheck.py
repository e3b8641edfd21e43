"""Derivatives of functions of MLX, held against finite differences."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._core.errors import NoRuleError
from bridge._core.op import Arrays

Function = Callable[..., Sequence[mx.array]]


def check_gradients(
    fn: Callable[..., Arrays],
    xs: Sequence[Any],
    *,
    order: int,
    modes: Sequence[str],
    eps: float,
    **near: float,
) -> None:
    """Raise `AssertionError` unless the derivatives of `fn` agree with finite differences.

    Along one random direction, forward and in reverse: MLX has no check of its own.
    """
    with mx.stream(mx.cpu):
        _check(fn, list(xs), order=order, modes=modes, eps=eps, near=near)


def pullback(
    fn: Callable[..., Arrays], xs: Sequence[Any]
) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
    """The results, and what `mx.vjp` makes of their cotangents."""
    listed = lambda *a: list(fn(*a))
    with mx.stream(mx.cpu):
        outputs = tuple(fn(*xs))
        mx.eval(outputs)

    def pull(cotangents: Sequence[Any]) -> Sequence[Any]:
        with mx.stream(mx.cpu):
            gradients = mx.vjp(listed, list(xs), list(cotangents))[1]
            mx.eval(gradients)
        return gradients

    return outputs, pull


def _check(
    fn: Function,
    xs: list[mx.array],
    *,
    order: int,
    modes: Sequence[str],
    eps: float,
    near: dict[str, float],
) -> None:
    count = len(xs)
    directions = _random(xs, seed=0)
    cotangents = _random(list(fn(*xs)), seed=1)

    def pull(*args: mx.array) -> list[mx.array]:
        return mx.vjp(lambda *a: list(fn(*a)), list(args[:count]), list(args[count:]))[1]

    steps = [[x + sign * eps * d for x, d in _pairs(xs, directions)] for sign in (1, -1)]
    above, below = (fn(*step) for step in steps)
    slope = [(a - b) / (2 * eps) for a, b in _pairs(above, below)]
    expected = _inner(cotangents, slope)
    ways: dict[str, Callable[[], float]] = {
        "rev": lambda: _inner(pull(*xs, *cotangents), directions),
        "fwd": lambda: _inner(cotangents, mx.jvp(lambda *a: list(fn(*a)), xs, directions)[1]),
    }
    for mode in modes:
        value = _derived(ways[mode])
        if not abs(value - expected) <= near["atol"] + near["rtol"] * abs(expected):
            raise AssertionError(
                f"the derivative in {_MODES[mode]} is {value}, but finite differences give "
                f"{expected}, along a random direction."
            )
    if order > 1 and "rev" in modes:
        _check(pull, [*xs, *cotangents], order=order - 1, modes=modes, eps=eps, near=near)


_MODES = {"rev": "reverse mode", "fwd": "forward mode"}


def _derived(derivative: Callable[[], float]) -> float:
    try:
        return derivative()
    except ValueError as error:
        if "ot implemented" not in str(error):  # as MLX says of a primitive without a rule
            raise
        raise NoRuleError(str(error)) from error


def _random(like: Sequence[mx.array], seed: int) -> list[mx.array]:
    key = mx.random.key(seed)
    shapes = [x.shape for x in like]
    drawn = [mx.random.normal(s, key=mx.random.split(key, i + 1)[i]) for i, s in enumerate(shapes)]
    return [d.astype(x.dtype) for d, x in _pairs(drawn, like)]


def _inner(xs: Sequence[mx.array], ys: Sequence[mx.array]) -> float:
    return float(sum((x * y).sum().item() for x, y in _pairs(xs, ys)))


def _pairs(xs: Sequence[mx.array], ys: Sequence[mx.array]) -> Any:
    return zip(xs, ys, strict=True)
