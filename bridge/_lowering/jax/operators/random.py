"""Operators that draw random numbers, from a key."""

from typing import Any

import jax
import jax.numpy as jnp

from bridge._lowering.jax.operators.lowerings import (
    OutputInfo,
    accumulation_dtype,
    cast,
    compute_in_float32,
    lowering,
    to_accumulation_dtype,
)


def _uniform(out: OutputInfo) -> Any:
    """Draw numbers from 0 to 1, excluding 1."""
    numbers = jax.random.uniform(out.key, out.shape, accumulation_dtype(out.dtype))
    if numbers.dtype == out.dtype:
        return numbers
    steps = 2.0 ** (jnp.finfo(out.dtype).nmant + 1)  # the largest would be rounded to 1
    return jnp.floor(numbers * steps) / steps


@lowering("aten.rand.default", "aten.rand_like.default", "aten.rand.generator")
def _rand(out: OutputInfo, *_: Any, **__: Any) -> Any:
    return _uniform(out)


@lowering("aten.uniform.default")
def _uniform_between(
    out: OutputInfo, _: Any, low: float = 0.0, high: float = 1.0, **__: Any
) -> Any:
    return low + (high - low) * _uniform(out)


@lowering("aten.randn.default", "aten.randn_like.default", "aten.randn.generator")
def _randn(out: OutputInfo, *_: Any, **__: Any) -> Any:
    return _normal(out)


def _normal(out: OutputInfo) -> Any:
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        return jax.random.normal(out.key, out.shape, out.dtype)
    return jax.random.normal(out.key, out.shape, accumulation_dtype(out.dtype))


@lowering(
    *("aten.normal.Tensor_float", "aten.normal.Tensor_Tensor"),
    *("aten.normal.float_Tensor", "aten.normal.float_float"),
)
def _normal_of(out: OutputInfo, mean: Any = 0.0, std: Any = 1.0, *_: Any, **__: Any) -> Any:
    return to_accumulation_dtype(mean) + to_accumulation_dtype(std) * _normal(out)


@lowering("aten.normal_functional.default")
def _normal_into(out: OutputInfo, _: Any, mean: float = 0.0, std: float = 1.0, **__: Any) -> Any:
    return mean + std * _normal(out)


@lowering(
    *("aten.bernoulli.default", "aten.bernoulli.p", "aten.bernoulli.Tensor"),
)
def _bernoulli(out: OutputInfo, x: Any, p: Any = None, **_: Any) -> Any:
    chance = x if p is None else p
    return jax.random.uniform(out.key, out.shape, "float32") < chance


@lowering("aten.native_dropout.default")
@compute_in_float32
def _dropout(out: OutputInfo, x: Any, p: float, train: bool | None) -> tuple[Any, Any]:
    if train is False:
        return x, jnp.ones(x.shape, bool)
    mask = jax.random.uniform(out.key, out.shape, "float32") < 1 - p
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return jnp.where(mask, x * cast(scale, x.dtype), 0), mask


@lowering("aten.randint.default", "aten.randint_like.default")
def _randint(out: OutputInfo, *args: Any, **_: Any) -> Any:
    high = next(x for x in args[::-1] if isinstance(x, int))
    return _between(out, 0, high)


@lowering("aten.randint.low")
def _randint_from(out: OutputInfo, low: int, high: int, *_: Any, **__: Any) -> Any:
    return _between(out, low, high)


@lowering("aten.randint_like.low_dtype")
def _randint_like(out: OutputInfo, _: Any, low: int, high: int, **__: Any) -> Any:
    return _between(out, low, high)


def _between(out: OutputInfo, low: int, high: int) -> Any:
    return jax.random.randint(out.key, out.shape, low, high, "int64")


@lowering("aten.randperm.default")
def _randperm(out: OutputInfo, n: int, **_: Any) -> Any:
    return jax.random.permutation(out.key, n)


@lowering("aten.exponential.default")
def _exponential(out: OutputInfo, _: Any, rate: float = 1.0, **__: Any) -> Any:
    return jax.random.exponential(out.key, out.shape, accumulation_dtype(out.dtype)) / rate


@lowering("aten.multinomial.default")
@compute_in_float32
def _multinomial(
    out: OutputInfo,
    weights: Any,
    count: int,
    replacement: bool = False,
    **_: Any,
) -> Any:
    # Gumbel-max: the argmax of log weights plus Gumbel noise is drawn in proportion to the weights.
    shape = weights.shape if not replacement else (*weights.shape[:-1], count, weights.shape[-1])
    noise = jax.random.gumbel(out.key, shape, weights.dtype)
    chances = jnp.log(weights)
    if replacement:
        return jnp.argmax(noise + chances[..., None, :], -1)
    return jnp.argsort(-(noise + chances), -1)[..., :count]
