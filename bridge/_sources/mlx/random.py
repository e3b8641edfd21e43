"""Random numbers that follow from an argument.

NOTE [the key of a call]
MLX draws from a key that each thread has, which changes with each draw. While a function runs, the
key is made of an argument, so that whatever is derived from the function draws the same numbers.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import note_thread

Fun = Callable[..., list[mx.array]]


def with_seed(fun: Fun, seed: int) -> Fun:
    """`fun` drawing from the key that the argument at the position `seed` makes."""

    def call(*xs: mx.array) -> list[mx.array]:
        with preserve_rng():
            _set_rng_state(_make_key(xs[seed]))
            return fun(*xs)

    return call


def rules_with_seed(fun: Fun, seed: int) -> Fun:
    """A derivative whose rules draw from a key that the argument at the position `seed` makes.

    It is another key than the function has, which the derivative runs first.
    """

    def call(*xs: mx.array) -> list[mx.array]:
        with preserve_rng():
            _set_rng_state(
                mx.random.split(mx.bitwise_xor(_make_key(xs[seed]), mx.array(_OTHER, mx.uint32)))[0]
            )
            return fun(*xs)

    return call


_OTHER = 0x5851F42D


@contextlib.contextmanager
def preserve_rng() -> Generator[None]:
    """What is drawn in here changes nothing outside."""
    before = mx.array(rng_state())
    try:
        yield
    finally:
        _set_rng_state(before)


@contextlib.contextmanager
def with_rng_key(key: mx.array) -> Generator[None]:
    """What is drawn in here follows from `key`, a state of earlier."""
    with preserve_rng():
        _set_rng_state(key)
        yield


def detect_rng_use(run: Callable[[], Any]) -> tuple[Any, bool]:
    """The result of `run`, and whether it drew from the key of the thread."""
    before = rng_state()
    result = run()
    return result, rng_state() is not before


def rng_state() -> mx.array:
    """The key of the thread: another array after each draw."""
    note_thread()
    return KEYS[0]


KEYS: Any = mx.random.state  # one object for all threads; to ask MLX for it takes half a us


def _set_rng_state(key: mx.array) -> None:
    rng_state()[...] = key  # the state takes no other array, but another value


def _make_key(seed: mx.array) -> mx.array:
    """A key of integers: two words as they are, as the key of JAX, others mixed into them."""
    narrow = seed.dtype.size < 4
    words = mx.flatten(seed.astype(mx.uint32) if narrow else seed).view(mx.uint32)
    if words.size == 1:
        return mx.concatenate([mx.zeros((1,), mx.uint32), words])
    key = words[:2]
    for i in range(2, words.size):
        key = mx.random.split(mx.bitwise_xor(key, words[i]))[1]
    return key
