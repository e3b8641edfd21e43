"""Comparison of the derivatives of MLX functions with finite differences."""

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
    **tolerances: float,
) -> None:
    """Raise `AssertionError` unless the derivatives of `fn` agree with finite differences.

    It compares along one random direction, in forward and reverse mode. MLX has no such check.
    """
    with mx.stream(mx.cpu):
        _check(fn, list(xs), order=order, modes=modes, eps=eps, tolerances=tolerances)


def pullback(
    fn: Callable[..., Arrays], xs: Sequence[Any]
) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
    """Return the results of `fn`, and the function from cotangents to gradients."""
    as_list = lambda *args: list(fn(*args))
    with mx.stream(mx.cpu):
        outputs = tuple(fn(*xs))
        mx.eval(outputs)

    def pull(cotangents: Sequence[Any]) -> Sequence[Any]:
        with mx.stream(mx.cpu):
            gradients = mx.vjp(as_list, list(xs), list(cotangents))[1]
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
    tolerances: dict[str, float],
) -> None:
    count = len(xs)
    tangents = _random_like(xs, seed=0)
    cotangents = _random_like(list(fn(*xs)), seed=1)

    def pull(*args: mx.array) -> list[mx.array]:
        return mx.vjp(lambda *a: list(fn(*a)), list(args[:count]), list(args[count:]))[1]

    expected = _inner_product(cotangents, _differences(fn, xs, tangents, eps))
    derivatives: dict[str, Callable[[], float]] = {
        "rev": lambda: _inner_product(pull(*xs, *cotangents), tangents),
        "fwd": lambda: _inner_product(cotangents, mx.jvp(lambda *a: list(fn(*a)), xs, tangents)[1]),
    }
    for mode in modes:
        value = _compute(derivatives[mode])
        tolerance = tolerances["atol"] + tolerances["rtol"] * abs(expected)
        if not abs(value - expected) <= tolerance:  # also raises for nan
            raise AssertionError(
                f"the derivative in {_MODES[mode]} is {value}, but finite differences give "
                f"{expected}, along a random direction."
            )
    if order > 1 and "rev" in modes:
        primals = [*xs, *cotangents]
        _check(pull, primals, order=order - 1, modes=modes, eps=eps, tolerances=tolerances)


def _differences(
    fn: Function, xs: list[mx.array], tangents: list[mx.array], eps: float
) -> list[mx.array]:
    """Return central differences of the outputs along `tangents`."""
    points = [[x + sign * eps * t for x, t in _zip_strict(xs, tangents)] for sign in (1, -1)]
    above, below = (fn(*point) for point in points)
    return [(a - b) / (2 * eps) for a, b in _zip_strict(above, below)]


_MODES = {"rev": "reverse mode", "fwd": "forward mode"}


def _compute(derivative: Callable[[], float]) -> float:
    """Return the derivative; raise `NoRuleError` if a primitive of MLX has no rule."""
    try:
        return derivative()
    except ValueError as error:
        if "ot implemented" not in str(error):  # the text of MLX for a primitive without a rule
            raise
        raise NoRuleError(str(error)) from error


def _random_like(xs: Sequence[mx.array], seed: int) -> list[mx.array]:
    key = mx.random.key(seed)
    keys = [mx.random.split(key, i + 1)[i] for i in range(len(xs))]
    return [mx.random.normal(x.shape, key=k).astype(x.dtype) for x, k in _zip_strict(xs, keys)]


def _inner_product(xs: Sequence[mx.array], ys: Sequence[mx.array]) -> float:
    return float(sum((x * y).sum().item() for x, y in _zip_strict(xs, ys)))


def _zip_strict(xs: Sequence[mx.array], ys: Sequence[mx.array]) -> Any:
    return zip(xs, ys, strict=True)
