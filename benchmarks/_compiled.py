"""A module of torch with a layer of JAX: eager, and compiled by torch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import jax2torch

_EAGER, _COMPILED, _RECOMPUTE = "eager", "torch.compile", 'torch.compile, residuals="recompute"'
_WIDTH, _DEPTH, _ROWS = 256, 6, 64


def _layers(x: jax.Array, weights: list[jax.Array]) -> jax.Array:
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


class _Layer(torch.nn.Module):
    """Layers of JAX whose weights are parameters of torch."""

    def __init__(self, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.call = call
        weights = (torch.randn(_WIDTH, _WIDTH) / _WIDTH**0.5 for _ in range(_DEPTH))
        self.weights = torch.nn.ParameterList(map(torch.nn.Parameter, weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.call(x, [*self.weights])


def _network(**options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        *(torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.GELU(), torch.nn.LayerNorm(_WIDTH)),
        _Layer(jax2torch(_layers, **options)),
        *(torch.nn.Linear(_WIDTH, _WIDTH), torch.nn.GELU(), torch.nn.LayerNorm(_WIDTH)),
    )


def training(effort: Effort) -> list[Measurement]:
    """Forward and backward of a network with six layers of JAX in the middle."""
    x, network, recomputing = (
        torch.randn(_ROWS, _WIDTH),
        _network(),
        _network(residuals="recompute"),
    )
    compiled, compiled_recomputing = (
        torch.compile(net, fullgraph=True) for net in (network, recomputing)
    )

    def step(net: torch.nn.Module, call: Callable[..., torch.Tensor]) -> Step:
        def once() -> list[torch.Tensor]:
            loss = (call(x) ** 2).mean()
            return [loss, *torch.autograd.grad(loss, [*net.parameters()])]

        return once

    steps = {
        _EAGER: step(network, network),
        _COMPILED: step(network, compiled),
        _RECOMPUTE: step(recomputing, compiled_recomputing),
    }
    expected = steps[_EAGER]()
    for name in (_COMPILED, _RECOMPUTE):
        torch.testing.assert_close(steps[name](), expected, rtol=1e-3, atol=1e-5)
    return [
        Measurement(
            title="network of torch with 6 layers of 256 of JAX, batch 64, forward and backward",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(15), scale=1e3),
            reference=_EAGER,
            bars=[
                Bar("compiled, no slower than eager", _COMPILED, _EAGER, 1.0),
                Bar("compiled, against recomputing", _COMPILED, _RECOMPUTE),
            ],
        )
    ]
