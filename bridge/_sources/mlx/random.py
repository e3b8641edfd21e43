"""Random numbers that follow from an argument.

NOTE [the key of a call]
MLX draws from a key that each thread has, and each draw changes the key. While a function runs, the
key is derived from an argument, so that all derivatives of the function draw the same numbers.
"""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import note_thread

Fun = Callable[..., list[mx.array]]


def with_seed(fun: Fun, seed_argnum: int) -> Fun:
    """Return `fun` so that it draws from a key derived from the argument at `seed_argnum`."""

    def call(*xs: mx.array) -> list[mx.array]:
        with preserve_rng():
            _set_rng_state(_make_key(xs[seed_argnum]))
            return fun(*xs)

    return call


def with_salted_seed(fun: Fun, seed_argnum: int) -> Fun:
    """Return the derivative `fun` so that its rules draw from a key derived from an argument.

    It differs from the key of the function itself, which the derivative runs first.
    """

    def call(*xs: mx.array) -> list[mx.array]:
        with preserve_rng():
            salted = mx.bitwise_xor(_make_key(xs[seed_argnum]), mx.array(_SALT, mx.uint32))
            _set_rng_state(mx.random.split(salted)[0])
            return fun(*xs)

    return call


_SALT = 0x5851F42D


@contextlib.contextmanager
def preserve_rng() -> Generator[None]:
    """Restore the thread's key at the end of the context."""
    key = mx.array(rng_state())
    try:
        yield
    finally:
        _set_rng_state(key)


@contextlib.contextmanager
def with_rng_key(key: mx.array) -> Generator[None]:
    """Draw from `key`, an earlier state of the thread's key, within a context."""
    with preserve_rng():
        _set_rng_state(key)
        yield


def detect_rng_use(run: Callable[[], Any]) -> tuple[Any, bool]:
    """Return the result of `run`, and True if it drew from the thread's key."""
    before = rng_state()
    result = run()
    return result, rng_state() is not before


def rng_state() -> mx.array:
    """Return the thread's key, which is another array after each draw."""
    note_thread()
    return KEYS[0]


KEYS: Any = mx.random.state  # one object for all threads; asking MLX for it takes half a us


def _set_rng_state(key: mx.array) -> None:
    rng_state()[...] = key  # the state cannot be replaced by another array, only overwritten


def _make_key(seed: mx.array) -> mx.array:
    """Make a key of integers: two words are used as JAX uses them, further ones are mixed in."""
    narrow = seed.dtype.size < 4
    words = mx.flatten(seed.astype(mx.uint32) if narrow else seed).view(mx.uint32)
    if words.size == 1:
        return mx.concatenate([mx.zeros((1,), mx.uint32), words])
    key = words[:2]
    for i in range(2, words.size):
        key = mx.random.split(mx.bitwise_xor(key, words[i]))[1]
    return key
