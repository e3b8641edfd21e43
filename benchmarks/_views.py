"""Modules of torch as modules of JAX's libraries and of MLX: what they add to a training step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import torch2jax, torch2mlx

_APPLY, _NNX, _EQUINOX = "a function in a loop by hand", "to_nnx", "to_equinox"
_OWN_NNX, _OWN_EQUINOX = "the same by hand as nnx.Module", "the same by hand as eqx.Module"
_MODULE = "bridged module"


def training_steps(effort: Effort) -> list[Measurement]:
    """Training steps of a perceptron of torch in JAX and MLX, as a module and by hand."""
    return [_in_jax(effort), _in_mlx(effort)]


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (torch.nn.Linear(256, 256), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers)


def _in_jax(effort: Effort) -> Measurement:
    import equinox as eqx
    from flax import nnx

    x, rule = jax.random.normal(jax.random.key(0), (64, 256)), optax.adam(1e-3)
    net = torch2jax(_network())

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        gradients = jax.grad(lambda params: (net.apply(params, {}, x)[0] ** 2).mean())(params)
        updates, state = rule.update(gradients, state)
        return optax.apply_updates(params, updates), state

    @nnx.jit
    def nnx_step(model: Any, optimizer: Any) -> None:
        optimizer.update(model, nnx.grad(lambda model: (model(x) ** 2).mean())(model))

    @eqx.filter_jit
    def equinox_step(model: Any, state: Any) -> Any:
        gradients = eqx.filter_grad(lambda model: (model(x) ** 2).mean())(model)
        updates, state = rule.update(gradients, state)
        return eqx.apply_updates(model, updates), state

    def in_nnx(model: Any) -> Step:
        cached = nnx.cached_partial(nnx_step, model, nnx.Optimizer(model, rule, wrt=nnx.Param))
        return lambda: jax.block_until_ready((cached(), jax.tree.leaves(nnx.state(model))))

    def in_equinox(model: Any) -> Step:
        return run([model, rule.init(eqx.filter(model, eqx.is_inexact_array))], equinox_step)

    def run(carry: list[Any], step: Callable[..., Any]) -> Step:
        def once() -> None:
            carry[:] = step(*carry)
            jax.block_until_ready(jax.tree.leaves(carry[1]))

        return once

    own_nnx, own_equinox = _native_modules(net)
    steps: dict[str, Step] = {
        _APPLY: run([net.params, rule.init(net.params)], step),
        _NNX: in_nnx(net.to_nnx()),
        _OWN_NNX: in_nnx(own_nnx),
        _EQUINOX: in_equinox(net.to_equinox()),
        _OWN_EQUINOX: in_equinox(own_equinox),
    }
    limit = "within 1.05x of the module by hand"
    return Measurement(
        title="perceptron of torch in JAX, 6 layers of 256, batch 64, a step of Adam under jit",
        unit="ms",
        values=timed(steps, seconds=effort.seconds(10), scale=1e3),
        reference=_APPLY,
        bars=[Bar(limit, _NNX, _OWN_NNX, 1.05), Bar(limit, _EQUINOX, _OWN_EQUINOX, 1.05)],
    )


def _native_modules(net: Any) -> tuple[Any, Any]:
    """Return modules of the layers of each library, which call the same function.

    So that the table says how much of a step the library takes for a module of its own.
    """
    import equinox as eqx
    from flax import nnx

    def call(weights: Sequence[Any], biases: Sequence[Any], x: jax.Array) -> jax.Array:
        params = {f"{2 * i}.weight": weight for i, weight in enumerate(weights)}
        params |= {f"{2 * i}.bias": bias for i, bias in enumerate(biases)}
        return net.apply(params, {}, x)[0]

    class NnxNetwork(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            pairs = [(nnx.Linear(256, 256, rngs=rngs), jax.nn.relu) for _ in range(6)]
            self.layers = nnx.Sequential(*[layer for pair in pairs for layer in pair])

        def __call__(self, x: jax.Array) -> jax.Array:
            layers: Any = self.layers.layers[::2]
            return call([one.kernel[...] for one in layers], [one.bias[...] for one in layers], x)

    class EquinoxNetwork(eqx.Module):
        layers: Any

        def __init__(self, key: jax.Array) -> None:
            keys = jax.random.split(key, 6)
            pairs = [(eqx.nn.Linear(256, 256, key=k), eqx.nn.Lambda(jax.nn.relu)) for k in keys]
            self.layers = eqx.nn.Sequential([layer for pair in pairs for layer in pair])

        def __call__(self, x: jax.Array) -> jax.Array:
            layers = self.layers.layers[::2]
            return call([one.weight for one in layers], [one.bias for one in layers], x)

    return NnxNetwork(nnx.Rngs(0)), EquinoxNetwork(jax.random.key(0))


def _in_mlx(effort: Effort) -> Measurement:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optimizers

    x, network = mx.random.normal((64, 256)), _network()
    call = torch2mlx(lambda params, x: torch.func.functional_call(network, params, (x,)))
    params = {name: mx.array(p.detach().numpy()) for name, p in network.named_parameters()}
    model = torch2mlx(_network())
    by_hand = mx.value_and_grad(lambda params: (call(params, x) ** 2).mean())
    of_module = nn.value_and_grad(model, lambda model: (model(x) ** 2).mean())
    rules = [optimizers.Adam(1e-3), optimizers.Adam(1e-3)]

    def step_by_hand() -> None:
        _, gradients = by_hand(params)
        params.update(rules[0].apply_gradients(gradients, params))
        mx.eval(params, rules[0].state)

    def step_of_module() -> None:
        _, gradients = of_module(model)
        rules[1].update(model, gradients)
        mx.eval(model.parameters(), rules[1].state)

    return Measurement(
        title="perceptron of torch in MLX, 6 layers of 256, batch 64, a step of Adam",
        unit="ms",
        values=timed(
            {_APPLY: step_by_hand, _MODULE: step_of_module},
            seconds=effort.seconds(10),
            scale=1e3,
        ),
        reference=_APPLY,
        bars=[Bar("within 1.05x of the loop by hand", _MODULE, _APPLY, 1.05)],
    )
