"""MLX functions in torch and torch functions in MLX: what a call costs beside the evaluations."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import mlx2torch, to_mlx, to_torch, torch2mlx

INTO_TORCH, INTO_MLX = "mlx2torch", "torch2mlx"
_SAVE, _AGAIN = "mlx2torch, save", "mlx2torch, recompute"
_TWO_EVALS, _ONE_EVAL = "two evaluations in a bare autograd.Function", "torch.func.vjp, one eval"
_NO_EVAL = "torch.func.vjp, nothing to evaluate"
_NATIVE, _TORCH, _COPY = "native MLX", "native torch", "a copy of 64 MB (torch clone)"
_SIZE, _LARGE = 16, 2**24


def _wave(xp: Any, x: Any) -> Any:
    return xp.sin(x) * x


def _floor(function: Callable[[mx.array], mx.array]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The least a bridge can do: one evaluation forward, one backward."""

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            y = function(mx.array(x.detach()))
            mx.eval(y)
            return torch.from_dlpack(y)

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            one = lambda x: [function(x)]
            (gradient,) = mx.vjp(one, [mx.array(x.detach())], [mx.array(cotangent)])[1]
            mx.eval(gradient)
            return torch.from_dlpack(gradient)

    return Floor.apply


def small(effort: Effort) -> list[Measurement]:
    """16 float32, forward and backward, each in the other framework."""
    return [_small_in_torch(effort), _small_in_mlx(effort)]


def _small_in_torch(effort: Effort) -> Measurement:
    x, cotangent = torch.randn(_SIZE, requires_grad=True), torch.randn(_SIZE)
    function = lambda x: _wave(mx, x)
    calls = {
        _TWO_EVALS: _floor(function),
        _TORCH: lambda x: _wave(torch, x),
        INTO_TORCH: mlx2torch(function),
        _SAVE: mlx2torch(function, residuals="save"),
        _AGAIN: mlx2torch(function, residuals="recompute"),
    }

    def step(call: Callable[[torch.Tensor], torch.Tensor]) -> Any:
        x.grad = None
        call(x).backward(cotangent)
        return x.grad

    return Measurement(
        title="MLX in torch, 16 float32, forward and backward",
        unit="us",
        values=_alike({name: _bound(step, call) for name, call in calls.items()}, effort, 8, 1e6),
        reference=_TWO_EVALS,
        bars=[Bar("within 1.15x two evaluations", INTO_TORCH, _TWO_EVALS, 1.15)],
    )


def _small_in_mlx(effort: Effort) -> Measurement:
    x, cotangent = mx.random.normal([_SIZE]), mx.random.normal([_SIZE])
    bridged = torch2mlx(lambda x: _wave(torch, x))

    def pulled(call: Callable[[mx.array], mx.array]) -> Step:
        def step() -> mx.array:
            (gradient,) = mx.vjp(lambda x: [call(x)], [x], [cotangent])[1]
            mx.eval(gradient)
            return gradient

        return step

    def floor(x: mx.array) -> mx.array:
        here, given = torch.from_dlpack(x), torch.from_dlpack(cotangent)
        _, pull = torch.func.vjp(lambda x: _wave(torch, x), here)
        gradient = mx.array(pull(given)[0])
        mx.eval(gradient)
        return gradient

    mx.eval(x, cotangent)
    steps: dict[str, Step] = {
        # As mx.vjp hands over what it is called with, not evaluated.
        _ONE_EVAL: lambda: floor(mx.stop_gradient(x)),
        _NO_EVAL: lambda: floor(x),
        _NATIVE: pulled(lambda x: _wave(mx, x)),
        INTO_MLX: pulled(bridged),
    }
    return Measurement(
        title="torch in MLX, 16 float32, vjp",
        unit="us",
        values=_alike(steps, effort, 8, 1e6),
        reference=_ONE_EVAL,
        bars=[Bar("within 1.25x torch.func.vjp and one eval", INTO_MLX, _ONE_EVAL, 1.25)],
    )


def large(effort: Effort) -> list[Measurement]:
    """64 MB across, beside a copy in memory."""
    here, there = torch.randn(_LARGE), mx.random.normal([_LARGE])
    mx.eval(there)
    few = mlx2torch(lambda x: x[:8] + 1)
    more = torch2mlx(lambda x: x[:8] + 1)
    steps: dict[str, Step] = {
        _COPY: lambda: here.clone(),
        "to_mlx": lambda: mx.eval(to_mlx(here)),
        "to_torch": lambda: to_torch(there),
        "to_torch, copy=True": lambda: to_torch(there, copy=True),
        f"{INTO_TORCH}, 64 MB in, 8 numbers out": lambda: few(here),
        f"{INTO_MLX}, 64 MB in, 8 numbers out": lambda: mx.eval(more(there)),
    }
    return [
        Measurement(
            title="64 MB to and from MLX",
            unit="ms",
            values=timed(steps, seconds=effort.seconds(10), scale=1e3),
            reference=_COPY,
            bars=[
                Bar("one copy into MLX", "to_mlx", _COPY),
                Bar("no copy out of it", "to_torch", _COPY),
            ],
            notes=["`mx.set_cache_limit` decides whether MLX keeps the memory of what it frees."],
        )
    ]


def perceptron(effort: Effort) -> list[Measurement]:
    """What to keep for the backward pass: a perceptron of 6 layers in MLX, called from torch."""
    random, (rows, width, depth) = np.random.default_rng(0), (128, 512, 6)
    x = random.normal(size=(rows, width)).astype("float32")
    ws = [(random.normal(size=(width, width)) / width**0.5).astype("float32") for _ in range(depth)]
    function = lambda x, ws: _layers(mx, x, ws)
    free = [torch.tensor(w, requires_grad=True) for w in ws]
    inside, weights = mx.array(x), [mx.array(w) for w in ws]

    def native() -> Any:
        gradients = mx.grad(function, argnums=1)(inside, weights)
        mx.eval(gradients)
        return gradients[0]

    def step(call: Callable[..., torch.Tensor]) -> Any:
        return torch.autograd.grad(call(torch.tensor(x), free), free)[0]

    ours = {
        INTO_TORCH: mlx2torch(function),
        _SAVE: mlx2torch(function, residuals="save"),
        _AGAIN: mlx2torch(function, residuals="recompute"),
    }
    steps = {_NATIVE: native} | {name: _bound(step, call) for name, call in ours.items()}
    return [
        Measurement(
            title="MLX in torch, perceptron of 6 layers of 512, batch 128, value and gradient",
            unit="ms",
            values=_alike(steps, effort, 15, 1e3),
            reference=_NATIVE,
            bars=[
                Bar("beside native MLX", INTO_TORCH, _NATIVE),
                Bar("time of recompute against save", _AGAIN, _SAVE),
            ],
        )
    ]


def _layers(xp: Any, x: Any, weights: Sequence[Any]) -> Any:
    for w in weights:
        x = xp.tanh(x @ w)
    return (x * x).mean()


def _bound(step: Callable[[Any], object], call: Any) -> Step:
    return lambda: step(call)


def _alike(
    steps: dict[str, Step], effort: Effort, seconds: float, scale: float
) -> dict[str, list[float]]:
    """Times of contenders that give the same gradient."""
    reference, *others = (np.array(step(), copy=True) for step in steps.values())
    for found in others:
        np.testing.assert_allclose(found, reference, rtol=1e-3, atol=1e-6)
    return timed(steps, seconds=effort.seconds(seconds), scale=scale)
