"""Torch functions in compiled JAX programs: what a call costs, and what its derivative keeps."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks._contenders import vetted
from benchmarks._handler import handler
from benchmarks._machine import Effort
from benchmarks._peers import NAMES_IN_JAX as PEERS, peers_in_jax
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import torch2jax

OURS, FLOOR, CALLBACK = "torch2jax", "bare FFI handler", "jax.pure_callback, NumPy"
_NATIVE, _TORCH, _AGAIN = "native JAX", "torch eager", 'torch2jax, capture="never"'
_COMPILED = 'torch2jax, lower="xla"'
_SIZE = 16
_STEPS = 1000


def _sine(x: torch.Tensor) -> torch.Tensor:
    return torch.sin(x)


def _with_rule(call: Callable[..., Any], both: Callable[..., Any], back: Callable[..., Any]) -> Any:
    """A function of JAX by its value, its value and derivative, and the product for a gradient."""

    @jax.custom_vjp
    def function(x: jax.Array) -> jax.Array:
        return call(x)[0]

    function.defvjp(lambda x: tuple(both(x)), lambda kept, c: (back(kept, c)[0],))
    return function


def _bare(shape: tuple[int, ...]) -> Any:
    return _with_rule(
        handler(lambda x: (torch.sin(x),), [shape], 1),
        handler(lambda x: (torch.sin(x), torch.cos(x)), [shape], 2),
        handler(lambda kept, c: (kept * c,), [shape, shape], 1),
    )


def _callback(shape: tuple[int, ...]) -> Any:
    def through(fn: Callable[..., Any], results: int) -> Callable[..., Any]:
        like = [jax.ShapeDtypeStruct(shape, jnp.float32)] * results

        def host(*xs: Any) -> list[np.ndarray]:
            return [y.numpy() for y in fn(*(torch.from_numpy(np.array(x)) for x in xs))]

        return lambda *xs: jax.pure_callback(host, like, *xs)

    return _with_rule(
        through(lambda x: (torch.sin(x),), 1),
        through(lambda x: (torch.sin(x), torch.cos(x)), 2),
        through(lambda kept, c: (kept * c,), 1),
    )


def _waiting(call: Callable[..., Any], *xs: Any) -> Step:
    return lambda: jax.block_until_ready(call(*xs))


def small(effort: Effort) -> list[Measurement]:
    """16 float32 under jit, forward and gradient, and in a scan."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=_SIZE), "float32")
    shape = (_SIZE,)
    others, missing = peers_in_jax(_sine, take_part=effort.peers)
    calls = {
        FLOOR: _bare(shape),
        _NATIVE: jnp.sin,
        OURS: torch2jax(_sine),
        CALLBACK: _callback(shape),
        **others,
    }

    def scanned(call: Any) -> Any:
        return lambda x: jax.lax.scan(lambda c, _: (call(c), None), x, None, length=_STEPS)[0]

    forms = {
        "16 float32 under jit, forward": (lambda call: call, 1e6, 4, 1.2),
        "16 float32 under jit, gradient": (_slope, 1e6, 4, 0.7),
        f"16 float32 in lax.scan, us a step of {_STEPS:,}": (scanned, 1e6 / _STEPS, 8, None),
    }
    found = []
    for title, (form, scale, seconds, limit) in forms.items():
        steps = {name: _waiting(jax.jit(form(call)), x) for name, call in calls.items()}
        fit, unfit = vetted(steps, steps[_NATIVE](), optional=PEERS)
        if limit is None:
            bars = [Bar("a third of pure_callback", OURS, CALLBACK, 0.33)]
        else:
            bars = [Bar(f"within {limit:g}x a bare FFI handler", OURS, FLOOR, limit)]
            bars += [Bar(f"faster than {x}", OURS, x, 1.0) for x in (CALLBACK, *PEERS) if x in fit]
        values = timed(fit, seconds=effort.seconds(seconds), scale=scale)
        found.append(
            Measurement(
                title=title,
                unit="us",
                values=values,
                reference=FLOOR,
                bars=bars,
                missing=missing | unfit,
            )
        )
    return found


def _slope(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return jax.grad(lambda x: call(x).sum())


def large(effort: Effort) -> list[Measurement]:
    """64 MB in and out."""
    there, x = torch2jax(_sine), jnp.ones(2**24, "float32")
    here, place = torch.ones(2**24), torch.empty(2**24)
    reference = f"{_TORCH} and one copy"
    steps: dict[str, Step] = {
        reference: lambda: place.copy_(_sine(here)),
        f"{_TORCH}, written in place": lambda: torch.sin(here, out=place),
        _NATIVE: _waiting(jax.jit(jnp.sin), x),
        OURS: _waiting(jax.jit(there), x),
    }
    return [
        Measurement(
            title="64 MB in and out under jit",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(10), scale=1e3),
            reference=reference,
            bars=[Bar("within 1.1x torch eager and one copy", OURS, reference, 1.1)],
        )
    ]


def _layers(xp: Any, x: Any, weights: Sequence[Any]) -> Any:
    for w in weights:
        x = xp.tanh(x @ w)
    return (x * x).mean()


def perceptron(effort: Effort) -> list[Measurement]:
    """A perceptron of 4 layers of 1024, batch 256: value and gradient."""
    random, (rows, width, depth) = np.random.default_rng(0), (256, 1024, 4)
    x = random.normal(size=(rows, width)).astype("float32")
    ws = [(random.normal(size=(width, width)) / width**0.5).astype("float32") for _ in range(depth)]
    here, free = torch.tensor(x), [torch.tensor(w, requires_grad=True) for w in ws]
    function = lambda x, weights: _layers(torch, x, weights)

    def eager() -> Any:
        value = function(here, free)
        return value, torch.autograd.grad(value, free)

    arrays = jnp.asarray(x), [jnp.asarray(w) for w in ws]
    calls = {
        OURS: torch2jax(function),
        _AGAIN: torch2jax(function, capture="never"),
        _COMPILED: torch2jax(function, lower="xla"),
        _NATIVE: lambda x, weights: _layers(jnp, x, weights),
    }
    compiled = {n: jax.jit(jax.value_and_grad(call, argnums=1)) for n, call in calls.items()}
    steps: dict[str, Step] = {_TORCH: eager}
    first: dict[str, list[float]] = {}
    for name, call in compiled.items():
        start = time.perf_counter()
        value, gradients = jax.block_until_ready(call(*arrays))
        first[name] = [time.perf_counter() - start]
        np.testing.assert_allclose(value, eager()[0].item(), rtol=1e-4)
        np.testing.assert_allclose(gradients[0], eager()[1][0], rtol=1e-3, atol=1e-7)
        steps[name] = _waiting(call, *arrays)
    return [
        Measurement(
            title="perceptron of 4 layers of 1024, batch 256, value and gradient",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(20), scale=1e3),
            reference=_TORCH,
            bars=[
                Bar("within 1.15x torch eager", OURS, _TORCH, 1.15),
                Bar("ahead of running again by 1.25x", OURS, _AGAIN, 0.8),
                Bar("compiled by XLA, within 1.1x native JAX", _COMPILED, _NATIVE, 1.1),
                Bar("compiled by XLA, against calls of torch", _COMPILED, OURS),
            ],
        ),
        Measurement(
            title="its first call, traced and compiled",
            unit="s",
            values=first,
            reference=_NATIVE,
            bars=[
                Bar("within 1.5x jitted JAX", OURS, _NATIVE, 1.5),
                Bar("compiled by XLA, within 1.5x jitted JAX", _COMPILED, _NATIVE, 1.5),
            ],
        ),
    ]


def module(effort: Effort) -> list[Measurement]:
    """A module of 10 linear layers, which has 20 parameters: value and gradient."""
    torch.manual_seed(0)
    depth, width, rows = 10, 256, 64
    linear = [torch.nn.Linear(width, width) for _ in range(depth)]
    network = torch.nn.Sequential(*(part for layer in linear for part in (layer, torch.nn.Tanh())))
    here = torch.randn(rows, width)
    free = [*network.parameters()]

    def eager() -> Any:
        value = (network(here) ** 2).mean()
        return value, torch.autograd.grad(value, free)

    there, x = torch2jax(network), jnp.asarray(here.numpy())

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return (there.apply(params, {}, x)[0] ** 2).mean()

    ours = jax.jit(jax.value_and_grad(loss))
    value, gradients = ours(there.params, x)
    np.testing.assert_allclose(value, eager()[0].item(), rtol=1e-4)
    last = f"{2 * depth - 2}.weight"
    np.testing.assert_allclose(gradients[last], eager()[1][-2], rtol=1e-3, atol=1e-6)
    steps: dict[str, Step] = {_TORCH: eager, OURS: _waiting(ours, there.params, x)}
    return [
        Measurement(
            title="module of 20 parameters, 10 layers of 256, batch 64, value and gradient",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(10), scale=1e3),
            reference=_TORCH,
            bars=[Bar("within 1.1x torch eager", OURS, _TORCH, 1.1)],
        )
    ]
