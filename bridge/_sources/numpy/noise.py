"""Random numbers of a function with a parameter `rng`, which follow from a key.

NOTE [noise]
The generator of a point follows from the key, from which derivative it is needed for, and from
which of its points it is. So the same key gives the same numbers, points have independent noise,
and so have a forward and a backward pass: with common noise, the gradient of a square is biased.
Batches take no part in it: an example with a key of its own draws what it would alone.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bridge._core.op import Positions
from bridge._sources.numpy.moves import Block

Blocks = Sequence[tuple[Block, Positions]]  # of random directions, and the primals they move
Directions = dict[Block, dict[int, np.ndarray]]


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


def directions_from_keys(
    primals: Sequence[np.ndarray], blocks: Blocks, keys: np.ndarray, tag: int
) -> Directions:
    """Return random signs that follow from keys, which have axes of labels."""
    return {
        block: _signs_from_keys(block.size, {i: primals[i] for i in argnums}, keys, tag + n)
        for n, (block, argnums) in enumerate(blocks)
    }


def _signs_from_keys(
    count: int, primals: dict[int, np.ndarray], keys: np.ndarray, tag: int
) -> dict[int, np.ndarray]:
    """Return signs with an axis for so many directions before that of elements."""
    labels = keys.shape[:-1]
    signs = {
        i: np.empty(
            (*np.broadcast_shapes(x.shape[:-1], labels), count, x.shape[-1]), _dtype_of_signs(x)
        )
        for i, x in primals.items()
    }
    for index in np.ndindex(labels):
        generator = make_generator(keys[index], tag, 2**32)
        own = tuple(
            slice(None) if size == 1 else slice(n, n + 1)
            for n, size in zip(index, labels, strict=True)
        )
        for array in signs.values():
            array[own] = _draw_signs(generator, array[own].shape, array.dtype)
    return signs


def draw_directions(
    primals: Sequence[np.ndarray], blocks: Blocks, generators: dict[Any, np.random.Generator]
) -> Directions:
    """Draw random signs from the generators of rules, which are made when they are first needed."""
    directions: Directions = {}
    for block, argnums in blocks:
        if block.rule not in generators:
            generators[block.rule] = np.random.default_rng(block.rule and block.rule.seed)
        generator = generators[block.rule]
        directions[block] = {
            i: _draw_signs(generator, (*x.shape[:-1], block.size, x.shape[-1]), _dtype_of_signs(x))
            for i, x in ((i, primals[i]) for i in argnums)
        }
    return directions


def _dtype_of_signs(x: np.ndarray) -> np.dtype:
    return np.dtype(np.complex128 if np.iscomplexobj(x) else np.float64)


def _draw_signs(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Draw signs; of complex elements, for both parts."""
    signs = generator.choice(np.array([-1.0, 1.0]), shape)
    if dtype.kind != "c":
        return signs
    return signs + 1j * generator.choice(np.array([-1.0, 1.0]), shape)
