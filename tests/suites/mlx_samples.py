"""Samples of operators of MLX: what is called, and the arrays that it is called with."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

_random = np.random.default_rng(7)
_offsets = itertools.count(1)
ROWS = mx.array([1, 0, 1])


def real(*shape):
    """Numbers of both signs, none near another of this or of the last ones."""
    count = math.prod(shape)
    values = np.linspace(-2, 2, max(count, 2))[:count] + 4 / max(count, 2) * (
        0.37 * next(_offsets) % 1
    )
    return mx.array(_random.permutation(values).reshape(shape).astype(np.float32))


def positive(*shape):
    return mx.array(_random.uniform(0.5, 1.8, size=shape).astype(np.float32))


def small(*shape):
    """Within (-1, 1)."""
    return mx.array(_random.uniform(-0.8, 0.8, size=shape).astype(np.float32))


def complex_(*shape):
    return mx.array((_random.normal(size=shape) + 1j * _random.normal(size=shape)).astype("c8"))


def whole(*shape, most=3):
    return mx.array(_random.integers(0, most, size=shape).astype(np.int32))


def triangular(n, *, upper=False):
    x = np.tril(_random.normal(size=(n, n))) + 3 * np.eye(n)
    return mx.array((x.T if upper else x).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Sample:
    """One call.

    Attributes:
        fn: Of arrays alone.
        xs: They.
    """

    fn: Callable[..., Any]
    xs: tuple[mx.array, ...]


def sample(fn, *xs):
    return Sample(fn, xs)
