"""Random numbers of a function with a parameter `rng`, which follow from a key.

NOTE [noise]
The generator of a point follows from the key, from which derivative it is needed for, and from
which of its points it is. So the same key gives the same numbers, points have independent noise,
and so have a forward and a backward pass: with common noise, the gradient of a square is biased.
Batches take no part in it: an example with a key of its own draws what it would alone.
"""

import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def tag_of(derivation: Any) -> int:
    """Return a number for a derivative, the same in every process."""
    return zlib.crc32(repr(derivation).encode())


def make_generator(key: Iterable[Any], *numbers: int) -> np.random.Generator:
    """Make the generator that follows from a key and these numbers."""
    return np.random.default_rng([*(int(word) % 2**64 for word in key), *numbers])


class Generators:
    """The generators of all points of an evaluation, in place of an array of keys.

    Args:
        keys: The key of each point.
        tag: The number of the derivative.
        count: How many points there are for one example.
    """

    def __init__(self, keys: np.ndarray, tag: int, count: int) -> None:
        self._keys, self._tag, self._count = keys.reshape(len(keys), -1), tag, count

    def __getitem__(self, points: int | slice) -> np.random.Generator:
        if isinstance(points, int):
            return make_generator(self._keys[points], self._tag, points % self._count)
        keys = self._keys[points]
        # A vectorized function has one generator for all points; of one key, the same at any size.
        key = keys[0] if (keys == keys[0]).all() else keys.ravel()
        return make_generator(key, self._tag, points.start)


def random_signs(
    shapes: dict[int, tuple[int, ...]], count: int, keys: np.ndarray, tag: int
) -> dict[int, np.ndarray]:
    """Return random signs from keys, which have axes of labels, as the shapes of arrays have.

    The signs have an axis more, for `count` directions, before that of elements.
    """
    labels = keys.shape[:-1]
    signs = {
        i: np.empty((*np.broadcast_shapes(shape[:-1], labels), count, shape[-1]))
        for i, shape in shapes.items()
    }
    for index in np.ndindex(labels):
        generator = make_generator(keys[index], tag, 2**32)
        own = tuple(
            slice(None) if size == 1 else slice(n, n + 1)
            for n, size in zip(index, labels, strict=True)
        )
        for array in signs.values():
            array[own] = draw_signs(generator, array[own].shape)
    return signs


def draw_signs(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw -1 or 1 for each element."""
    return generator.choice(np.array([-1.0, 1.0]), shape)
