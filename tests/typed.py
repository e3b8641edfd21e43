"""The types that an editor finds; `nox -s types` checks them."""

from collections.abc import Callable
from typing import Any, assert_type

import equinox as eqx
import flax.linen as linen
import mlx.nn
import torch
from flax import nnx

import bridge

net = torch.nn.Linear(2, 2)
assert_type(bridge.torch2jax(net), bridge.Functional)
assert_type(bridge.torch2jax(net, lower="xla"), bridge.Functional)
assert_type(bridge.torch2mlx(net), mlx.nn.Module)
assert_type(bridge.torch2mlx(net, method="encode"), mlx.nn.Module)
assert_type(bridge.torch2jax(net).params, Any)
assert_type(bridge.jax2mlx(bridge.Functional(abs, {})), mlx.nn.Module)

layer = mlx.nn.Linear(2, 2)
assert_type(bridge.mlx2torch(layer), torch.nn.Module)
assert_type(bridge.mlx2torch(layer, method="encode"), torch.nn.Module)
assert_type(bridge.mlx2jax(layer, compile=True), bridge.Functional)


class Identity(nnx.Module):
    def __call__(self, x: Any) -> Any:
        return x


class Half(eqx.Module):
    factor: Any

    def __call__(self, x: Any) -> Any:
        return self.factor * x


assert_type(bridge.jax2torch(Identity()), torch.nn.Module)
assert_type(bridge.jax2torch(Half(0.5), method="__call__"), torch.nn.Module)
assert_type(bridge.jax2torch(linen.Dense(2).bind({})), torch.nn.Module)
assert_type(bridge.jax2torch(bridge.Functional(lambda w, x: w * x, 0.5)), torch.nn.Module)
assert_type(bridge.jax2mlx(Identity()), mlx.nn.Module)


def square(x: Any) -> Any:
    return x * x


assert_type(bridge.jax2torch(square), bridge.BridgedFunction)
assert_type(bridge.jax2mlx(square, residuals="save"), bridge.BridgedFunction)
assert_type(bridge.torch2jax(square, capture="never"), bridge.BridgedFunction)
assert_type(bridge.torch2mlx(square), bridge.BridgedFunction)
assert_type(bridge.mlx2torch(square), bridge.BridgedFunction)
assert_type(bridge.mlx2jax(square), bridge.BridgedFunction)
assert_type(bridge.jax2torch(jit=False), Callable[[Callable[..., Any]], bridge.BridgedFunction])
assert_type(bridge.jax2torch(square).vmap(), bridge.BridgedFunction)
assert_type(bridge.numpy2torch(square).evaluations, int)
assert_type(bridge.numpy2jax(gradient=bridge.rules.SPSA())(square).calls, int)
assert_type(bridge.nn.FunctionLayer(square, {"w": 2})(torch.ones(2)), Any)
assert_type(bridge.jax2torch(square).__name__, str)
assert_type(bridge.jax2torch(square)(1.0), Any)

bridge.torch2jax(square, lower="jax")  # pyright: ignore[reportArgumentType, reportCallIssue]
bridge.jax2torch(square, residuals="all")  # pyright: ignore[reportArgumentType, reportCallIssue]
