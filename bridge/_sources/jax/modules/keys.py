"""Keys for the random numbers of modules.

NOTE [does a call draw]
A module may take random numbers in one mode and none in another. So it is traced with a key as one
more argument; where no output depends on it, the call is made without, and the caller's generator
does not move. Otherwise the call is repeated with a key, and this trace is that of the repetition.
"""

import contextlib
import contextvars
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bridge._arrays.jax.upstream.jaxprs import dce_jaxpr
from bridge._core.function_protocols import StructuredFunction
from bridge._core.op import Specs
from bridge._core.spec import ArraySpec
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.modules.traced_calls import TracedCall, keep_trace, take_trace
from bridge._sources.jax.trace import trace

_data = contextvars.ContextVar[Any]("data of the key", default=None)


@contextlib.contextmanager
def default_key_data(data: Any) -> Generator[None]:
    """Let modules that are called without a key make one of `data`: NOTE [does a call draw]."""
    token = _data.set(data)
    try:
        yield
    finally:
        _data.reset(token)


def make_key(rng: Any) -> Any:
    """Return a typed key made of the caller's `rng`, which may be a key, its data or integers."""
    data = _data.get() if rng is None else rng
    if data is None:
        return jax.random.key(0)
    if jnp.issubdtype(data.dtype, jax.dtypes.prng_key):
        return data
    words = data.astype(jnp.uint32).reshape(-1)
    if words.size == 2:
        return jax.random.wrap_key_data(words, impl="threefry2x32")
    key = jax.random.key(0)
    for word in words:
        key = jax.random.fold_in(key, word)
    return key


def trace_module(
    fn: StructuredFunction,
    primals: Specs,
    environment: Environment,
    labels: Sequence[str],
    seed_argnum: int | None,
) -> Callable[..., Any] | None:
    """Return a trace of `fn`, or itself if it has a key; None if it draws and has no key."""
    if seed_argnum is None:
        return _trace_without_key(fn, primals, environment, labels)
    call = TracedCall(fn, primals, environment, labels)
    return take_trace(call, seed_argnum) or fn


def _trace_without_key(
    fn: StructuredFunction, primals: Specs, environment: Environment, labels: Sequence[str]
) -> Callable[..., Any] | None:
    """Trace `fn` with a key; return the trace if no output depends on that, else None."""

    def with_key(*args: Any) -> Any:
        with default_key_data(args[-1]):
            return fn(*args[:-1])

    vars(with_key)["written"] = fn.written  # whose lines errors of JAX show
    key_data = ArraySpec((2,), "uint32", "cpu")
    program = trace(
        with_key,
        (*primals, key_data),
        environment=environment,
        labels=(*labels, "argument rng of the module"),
    )
    jaxpr = program.jaxpr.jaxpr
    if dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1][len(primals)]:
        keep_trace(TracedCall(fn, primals, environment, labels, program))
        return None
    return lambda *xs: program(*xs, jnp.zeros(2, "uint32"))


def key_like(key: Any, original: Any) -> Any:
    """Return keys that follow from `key`, of the shape and the kind of the original ones."""
    implementation: list[Any] = []

    def data(keys: Any) -> Any:
        implementation.append(jax.random.key_impl(keys))
        return jax.random.key_data(keys)

    words = jax.eval_shape(data, original)
    return jax.random.wrap_key_data(
        jax.random.bits(key, words.shape, "uint32"), impl=implementation[0]
    )
