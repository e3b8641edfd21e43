"""Names that JAX does not promise to keep: how primitives are computed that are no basic operation.

Without one of these names, a function that needs it is refused by the name of its primitive.
"""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def is_key(aval: Any) -> bool:
    """Return True if this is the abstract value of typed keys for random numbers."""
    dtype = getattr(aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def key_shape(aval: Any) -> tuple[int, ...]:
    """Return the shape of the words of one key."""
    return tuple(aval.dtype._impl.key_shape)


def _prng(name: str) -> Callable[..., Any] | None:
    return _find("random.prng", name)


def _find(module: str, name: str) -> Callable[..., Any] | None:
    try:
        return getattr(importlib.import_module(f"jax._src.{module}"), name, None)
    except ImportError:
        return None


def expansion(eqn: Any) -> Callable[..., Any] | None:
    """Return the function that computes an equation, on the words of keys; None if unknown."""
    make = _EXPANSIONS.get(eqn.primitive.name)
    return None if make is None else make(eqn)


def _random_seed(eqn: Any) -> Callable[..., Any] | None:
    seed = _prng("random_seed_impl_base")
    return seed and (lambda seeds: seed(seeds, impl=eqn.params["impl"]))


def _random_bits(eqn: Any) -> Callable[..., Any] | None:
    bits, aval = _prng("random_bits_impl_base"), eqn.invars[0].aval
    return bits and (lambda words: bits(aval.dtype._impl, words, aval.ndim, **eqn.params))


def _random_split(eqn: Any) -> Callable[..., Any] | None:
    split, aval = _prng("random_split_impl_base"), eqn.invars[0].aval
    return split and (lambda words: split(aval.dtype._impl, words, aval.ndim, **eqn.params))


def _random_fold_in(eqn: Any) -> Callable[..., Any] | None:
    fold_in, aval = _prng("random_fold_in_impl_base"), eqn.invars[0].aval
    return fold_in and (lambda words, data: fold_in(aval.dtype._impl, words, data, aval.shape))


def _random_gamma(eqn: Any) -> Callable[..., Any] | None:
    gamma, impl = _find("random.core", "_gamma_impl"), eqn.invars[0].aval.dtype._impl
    if gamma is None:
        return None
    # One draw after the other is the same as all at once, and shorter.
    params = {**eqn.params, "use_vmap": True} if "use_vmap" in eqn.params else eqn.params
    return lambda words, a: gamma(jax.random.wrap_key_data(words, impl=impl), a, **params)


def _threefry(eqn: Any) -> Callable[..., Any] | None:
    threefry = _find("random.threefry2x32", "_threefry2x32_lowering")
    shape = eqn.outvars[0].aval.shape
    if threefry is None:
        return None
    return lambda *xs: threefry(*(jnp.broadcast_to(x, shape) for x in xs), use_rolled_loops=False)


def _special(name: str) -> Callable[[Any], Callable[..., Any] | None]:
    def make(eqn: Any) -> Callable[..., Any] | None:
        function, aval = _find("lax.special", name), eqn.outvars[0].aval
        dtype = {} if name == "random_gamma_grad_impl" else {"dtype": aval.dtype}
        return function and (
            lambda *xs: function(*(jnp.broadcast_to(x, aval.shape) for x in xs), **dtype)
        )

    return make


_EXPANSIONS: dict[str, Callable[[Any], Callable[..., Any] | None]] = {
    "random_seed": _random_seed,
    "random_bits": _random_bits,
    "random_split": _random_split,
    "random_fold_in": _random_fold_in,
    "random_gamma": _random_gamma,
    "threefry2x32": _threefry,
    "igamma_grad_a": _special("igamma_grad_a_impl"),
    "regularized_incomplete_beta": _special("regularized_incomplete_beta_impl"),
    "random_gamma_grad": _special("random_gamma_grad_impl"),
}
