"""How derivatives and batches of functions of MLX are held against differences and loops."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from bridge import BridgeError, mlx2torch, to_mlx, to_torch

Function = Callable[..., list[Any]]


class _NoNumberError(Exception):
    """A derivative is NaN, which nobody takes for a number."""


RIGHT, LACKS, WRONG = "right", "lacks", "wrong"
EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to derivatives and batches of functions of flat arrays.

    Attributes:
        function: From a function of MLX to that of the way.
        array: From an array of MLX, and `back` to one.
        vjp: `(fn, xs, cotangents) -> gradients`.
        jvp: `(fn, xs, tangents) -> tangents`.
        vmap: `(fn, axes) -> fn`.
        lacking: The errors that say that something is not to be had.
    """

    function: Callable[[Function], Function]
    array: Callable[[mx.array], Any]
    back: Callable[[Any], mx.array]
    vjp: Callable[[Function, list[Any], list[Any]], Sequence[Any]]
    jvp: Callable[[Function, list[Any], list[Any]], Sequence[Any]]
    vmap: Callable[[Function, tuple[int | None, ...]], Function]
    lacking: tuple[type[Exception], ...]


def _listed(fn):
    return lambda *xs: [*fn(*xs)]


ALONE = Way(
    function=lambda fn: lambda *xs: [mx.contiguous(y) for y in fn(*xs)],
    array=lambda x: x,
    back=lambda x: x,
    vjp=lambda fn, xs, cotangents: mx.vjp(fn, xs, cotangents)[1],
    jvp=lambda fn, xs, tangents: mx.jvp(fn, xs, tangents)[1],
    vmap=lambda fn, axes: _listed(mx.vmap(fn, in_axes=axes)),
    lacking=(ValueError, RuntimeError, IndexError),
)
BRIDGED = Way(
    function=mlx2torch,
    array=to_torch,
    back=lambda x: to_mlx(x.detach()),
    vjp=lambda fn, xs, cotangents: torch.func.vjp(fn, *xs)[1](cotangents),
    jvp=lambda fn, xs, tangents: torch.func.jvp(fn, tuple(xs), tuple(tangents))[1],
    vmap=lambda fn, axes: torch.func.vmap(fn, in_dims=axes),
    lacking=(BridgeError, ValueError),
)


def is_smooth(x: mx.array) -> bool:
    return mx.issubdtype(x.dtype, mx.inexact)


@dataclasses.dataclass
class Measured:
    """The outcomes of one sample by transformation; of several the worst."""

    outcomes: dict[str, str] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)

    def note(self, kind: str, way: Way, run: Callable[[], bool]) -> None:
        try:
            outcome = RIGHT if run() else WRONG
        except _NoNumberError:
            outcome, self.texts[kind] = LACKS, "no number"
        except way.lacking as error:
            outcome, self.texts[kind] = LACKS, str(error)
        order = [RIGHT, LACKS, WRONG]
        self.outcomes[kind] = max(self.outcomes.get(kind, RIGHT), outcome, key=order.index)


def measure(fn: Callable[..., Any], xs: Sequence[mx.array], way: Way) -> Measured:
    """What is right of the derivatives and batches of `fn` at `xs`, by this way."""
    measured = Measured()
    _draw.bit_generator.state = _FIRST
    whole = lambda *xs: _flat(fn(*xs))
    ys = whole(*xs)
    out = [i for i, y in enumerate(ys) if is_smooth(y)]
    free = [i for i, x in enumerate(xs) if is_smooth(x)]
    for at in _subsets(free) if out else []:
        part, moving = _part(whole, xs, at, out), [xs[i] for i in at]
        cotangents = [_random(ys[i]) for i in out]
        _first(measured, way, part, moving, cotangents)
        if len(at) == len(free):
            _second(measured, way, part, moving, cotangents)
    for at in _subsets(range(len(xs))):
        for axis in (0, -1):
            _batch(measured, way, whole, xs, dict.fromkeys(at, axis))
    if len(xs) > 1:
        _batch(measured, way, whole, xs, dict(enumerate([0, -1] + [0] * (len(xs) - 2))))
    return measured


def _flat(results: Any) -> list[mx.array]:
    return [*results] if isinstance(results, (tuple, list)) else [results]


def _subsets(positions: Sequence[int]) -> list[tuple[int, ...]]:
    sizes = range(1, len(positions) + 1)
    return [c for size in sizes for c in itertools.combinations(positions, size)]


def _part(whole, xs, at, out) -> Function:
    def part(*moving):
        row = list(xs)
        for i, x in zip(at, moving, strict=True):
            row[i] = x
        ys = whole(*row)
        return [ys[i] for i in out]

    return part


def _first(measured, way, part, xs, cotangents) -> None:
    tangents = [_random(x) for x in xs]
    expected = _slopes(part, xs, tangents, cotangents)
    fn = way.function(part)
    native, directions, weights = ([*map(way.array, each)] for each in (xs, tangents, cotangents))

    def reverse():
        gradients = [*map(way.back, way.vjp(fn, native, weights))]
        alike = [g.shape for g in gradients] == [x.shape for x in xs]
        return alike and _is_close(_inner(gradients, tangents), expected)

    def ahead():
        moved = [*map(way.back, way.jvp(fn, native, directions))]
        alike = [t.shape for t in moved] == [y.shape for y in cotangents]
        return alike and _is_close(_inner(cotangents, moved), expected)

    measured.note("vjp", way, reverse)
    measured.note("jvp", way, ahead)


def _second(measured, way, part, xs, cotangents) -> None:
    """Derivatives of the gradient, held against its differences where it is right itself."""
    if measured.outcomes["vjp"] != RIGHT:
        return
    weights, fn = [*map(way.array, cotangents)], way.function(part)
    slope = lambda *xs: [*way.vjp(fn, [*xs], weights)]
    directions, seeds = [_random(x) for x in xs], [_random(x) for x in xs]
    plain = lambda *xs: [*map(way.back, slope(*map(way.array, xs)))]
    expected = _slopes(plain, xs, directions, seeds)
    native, tangents, outer = ([*map(way.array, each)] for each in (xs, directions, seeds))
    measured.note(
        "jvp of vjp",
        way,
        lambda: _is_close(_inner(seeds, map(way.back, way.jvp(slope, native, tangents))), expected),
    )
    measured.note(
        "vjp of vjp",
        way,
        lambda: _is_close(
            _inner(map(way.back, way.vjp(slope, native, outer)), directions), expected
        ),
    )
    rows = [_rows(x) for x in xs]
    stacked = [way.array(mx.stack(row)) for row in rows]
    alone = [plain(*row) for row in zip(*rows, strict=True)]
    measured.note(
        "vmap of vjp",
        way,
        lambda: _are_alike(way.vmap(slope, (0,) * len(xs))(*stacked), alone, way),
    )


def _batch(measured, way, whole, xs, axes) -> None:
    over = [x.ndim if axes.get(i) == -1 else axes.get(i) for i, x in enumerate(xs)]
    rows = [
        _rows(x) if axis is not None else [x] * EXAMPLES for x, axis in zip(xs, over, strict=True)
    ]
    stacked = [
        way.array(x if axis is None else mx.stack(row, axis))
        for x, row, axis in zip(xs, rows, over, strict=True)
    ]
    alone = [whole(*row) for row in zip(*rows, strict=True)]
    fn = way.function(whole)
    measured.note("vmap", way, lambda: _are_alike(way.vmap(fn, tuple(over))(*stacked), alone, way))


def _rows(x: mx.array) -> list[mx.array]:
    """Examples like `x`, which no function of MLX takes elsewhere than it."""
    if is_smooth(x):
        return [x, x * 0.95, x * 0.9]
    return [x, mx.maximum(x, 1) - 1, x + 1] if x.dtype != mx.bool_ else [x, ~x, x]


def _are_alike(batch, alone, way) -> bool:
    found = [_numpy(way.back(y)) for y in batch]
    expected = [np.stack([_numpy(y) for y in ys]) for ys in zip(*alone, strict=True)]
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True)
        for a, b in zip(found, expected, strict=True)
    )


_draw = np.random.default_rng(11)
_FIRST = _draw.bit_generator.state


def _random(x: mx.array) -> mx.array:
    values = _draw.normal(size=x.shape)
    if x.dtype == mx.complex64:
        values = values + 1j * _draw.normal(size=x.shape)
    return mx.array(values.astype("c8" if x.dtype == mx.complex64 else "f4")).astype(x.dtype)


def _numpy(x: mx.array) -> np.ndarray:
    kind = mx.complex64 if x.dtype == mx.complex64 else mx.float32
    return np.array(x.astype(kind)).astype(complex)


def _inner(xs, ys) -> float:
    pairs = zip(xs, ys, strict=True)
    return sum(float((np.conj(_numpy(x)) * _numpy(y)).real.sum()) for x, y in pairs)


def _slopes(fn, xs, directions, weights) -> list[float]:
    """Differences of `fn` along `directions`, over two lengths."""
    slopes = []
    for length in (1e-2, 3e-3):
        steps = [
            [x + sign * length * d for x, d in zip(xs, directions, strict=True)] for sign in (1, -1)
        ]
        above, below = (fn(*step) for step in steps)
        slopes.append((_inner(weights, above) - _inner(weights, below)) / (2 * length))
    return slopes


def _is_close(found: float, expected: list[float]) -> bool:
    if math.isnan(found) and not math.isnan(expected[0]):
        raise _NoNumberError
    return any(abs(found - each) <= 2e-2 * max(1, abs(each)) for each in expected)
