"""Random numbers that follow from a key, from the distributions of torch."""

from typing import Any

import jax
import jax.numpy as jnp

from bridge._lowering.jax.operators.lowerings import Result, cast, operator, single, wide, widened


def _uniform(out: Result) -> Any:
    """Numbers from 0 to 1, which is not one of them."""
    found = jax.random.uniform(out.key, out.shape, single(out.dtype))
    if found.dtype == out.dtype:
        return found
    steps = 2.0 ** (jnp.finfo(out.dtype).nmant + 1)  # the largest would be rounded to 1
    return jnp.floor(found * steps) / steps


@operator("aten.rand.default", "aten.rand_like.default", "aten.rand.generator")
def _rand(out: Result, *_: Any, **__: Any) -> Any:
    return _uniform(out)


@operator("aten.uniform.default")
def _uniform_between(out: Result, _: Any, low: float = 0.0, high: float = 1.0, **__: Any) -> Any:
    return low + (high - low) * _uniform(out)


@operator("aten.randn.default", "aten.randn_like.default", "aten.randn.generator")
def _randn(out: Result, *_: Any, **__: Any) -> Any:
    return _normal(out)


def _normal(out: Result) -> Any:
    if jnp.issubdtype(out.dtype, jnp.complexfloating):
        return jax.random.normal(out.key, out.shape, out.dtype)
    return jax.random.normal(out.key, out.shape, single(out.dtype))


@operator(
    *("aten.normal.Tensor_float", "aten.normal.Tensor_Tensor"),
    *("aten.normal.float_Tensor", "aten.normal.float_float"),
)
def _normal_of(out: Result, mean: Any = 0.0, std: Any = 1.0, *_: Any, **__: Any) -> Any:
    return widened(mean) + widened(std) * _normal(out)


@operator("aten.normal_functional.default")
def _normal_into(out: Result, _: Any, mean: float = 0.0, std: float = 1.0, **__: Any) -> Any:
    return mean + std * _normal(out)


@operator(
    *("aten.bernoulli.default", "aten.bernoulli.p", "aten.bernoulli.Tensor"),
)
def _bernoulli(out: Result, x: Any, p: Any = None, **_: Any) -> Any:
    chance = x if p is None else p
    return jax.random.uniform(out.key, out.shape, "float32") < chance


@operator("aten.native_dropout.default")
@wide
def _dropout(out: Result, x: Any, p: float, train: bool | None) -> tuple[Any, Any]:
    if train is False:
        return x, jnp.ones(x.shape, bool)
    kept = jax.random.uniform(out.key, out.shape, "float32") < 1 - p
    scale = 0.0 if p == 1 else 1 / (1 - p)
    return jnp.where(kept, x * cast(scale, x.dtype), 0), kept


@operator("aten.randint.default", "aten.randint_like.default")
def _randint(out: Result, *args: Any, **_: Any) -> Any:
    high = next(x for x in args[::-1] if isinstance(x, int))
    return _between(out, 0, high)


@operator("aten.randint.low")
def _randint_from(out: Result, low: int, high: int, *_: Any, **__: Any) -> Any:
    return _between(out, low, high)


@operator("aten.randint_like.low_dtype")
def _randint_like(out: Result, _: Any, low: int, high: int, **__: Any) -> Any:
    return _between(out, low, high)


def _between(out: Result, low: int, high: int) -> Any:
    return jax.random.randint(out.key, out.shape, low, high, "int64")


@operator("aten.randperm.default")
def _randperm(out: Result, n: int, **_: Any) -> Any:
    return jax.random.permutation(out.key, n)


@operator("aten.exponential.default")
def _exponential(out: Result, _: Any, rate: float = 1.0, **__: Any) -> Any:
    return jax.random.exponential(out.key, out.shape, single(out.dtype)) / rate


@operator("aten.multinomial.default")
@wide
def _multinomial(
    out: Result,
    weights: Any,
    count: int,
    replacement: bool = False,
    **_: Any,
) -> Any:
    # The largest of Gumbel's numbers, shifted by logarithms of weights, is drawn by weight.
    shape = weights.shape if not replacement else (*weights.shape[:-1], count, weights.shape[-1])
    noise = jax.random.gumbel(out.key, shape, weights.dtype)
    chances = jnp.log(weights)
    if replacement:
        return jnp.argmax(noise + chances[..., None, :], -1)
    return jnp.argsort(-(noise + chances), -1)[..., :count]
