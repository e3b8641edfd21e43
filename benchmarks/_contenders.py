"""Ways to call a JAX function from torch: the least possible, ours, and a check of results.

NOTE [the way out of the floor]
`__dlpack__` of an array that was just computed takes 7 to 100 us in jax 0.10, the more the busier
the machine; `torch.from_numpy(numpy.asarray(y))` takes 2 us. Its tensors share read-only memory
with JAX, which a bridge must not hand out and a floor may.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from benchmarks._timing import Step
from bridge import jax2torch

FLOOR = "floor"
BY_HAND = "torch.autograd.Function by hand"
OURS, SAVE, RECOMPUTE = "jax2torch", "jax2torch, save", "jax2torch, recompute"

Function = Callable[..., Any]


def ours(function: Function) -> dict[str, Function]:
    """`function` bridged: as it is by default, and with each way to keep residuals."""
    return {
        OURS: jax2torch(function),
        SAVE: jax2torch(function, residuals="save"),
        RECOMPUTE: jax2torch(function, residuals="recompute"),
    }


warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


def _out(y: jax.Array) -> torch.Tensor:
    """NOTE [the way out of the floor]."""
    return torch.from_numpy(np.asarray(y))


def floor(function: Function) -> Function:
    """The least a bridge can do: two jitted calls on NumPy views, for one tensor."""
    forwards = jax.jit(function)
    backwards = jax.jit(lambda x, cotangent: jax.vjp(function, x)[1](cotangent)[0])

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return _out(forwards(x.detach().numpy()))

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return _out(backwards(x.detach().numpy(), cotangent.numpy()))

    return Floor.apply


def tree_floor(function: Function) -> Function:
    """The same for a dict of tensors, given a function of a list of arrays."""
    forwards = jax.jit(function)
    backwards = jax.jit(lambda xs, cotangents: jax.vjp(function, xs)[1](cotangents)[0])

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            ctx.save_for_backward(*xs)
            outputs = forwards([x.detach().numpy() for x in xs])
            return tuple([_out(y) for y in outputs])

        @staticmethod
        def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[torch.Tensor, ...]:
            xs = [x.detach().numpy() for x in ctx.saved_tensors]
            gradients = backwards(xs, [c.numpy() for c in cotangents])
            return tuple([_out(g) for g in gradients])

    return lambda tree: dict(zip(tree, Floor.apply(*tree.values()), strict=True))


def split_floor(function: Function, count: int) -> Function:
    """The same for gradients by the first `count` of several tensors, with one result."""

    def pull(cotangent: Any, *xs: Any) -> Any:
        free, others = xs[:count], xs[count:]
        return jax.vjp(lambda *free: function(*free, *others), *free)[1](cotangent)

    forwards, backwards = jax.jit(function), jax.jit(pull)

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(*xs)
            return _out(forwards(*[x.detach().numpy() for x in xs]))

        @staticmethod
        def backward(ctx: Any, cotangent: torch.Tensor) -> Any:
            xs = ctx.saved_tensors
            gradients = backwards(cotangent.numpy(), *[x.detach().numpy() for x in xs])
            return *map(_out, gradients), *[None] * (len(xs) - count)

    return Floor.apply


def loss_floor(function: Function, count: int) -> Function:
    """The same for a loss: its gradients are computed along with it, and handed out as they are."""
    native = jax.jit(jax.value_and_grad(function, argnums=tuple(range(count))))

    class Floor(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *xs: torch.Tensor) -> torch.Tensor:
            value, gradients = native(*[x.detach().numpy() for x in xs])
            ctx.other_count = len(xs) - count
            ctx.save_for_backward(*map(_out, gradients))
            return _out(value)

        @staticmethod
        def backward(ctx: Any, _: torch.Tensor) -> Any:
            return *ctx.saved_tensors, *[None] * ctx.other_count

    return Floor.apply


class Written(torch.autograd.Function):
    """`sin(x) * x` by hand in torch: what a Python `autograd.Function` costs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.sin(x) * x

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return cotangent * (torch.cos(x) * x + torch.sin(x))


def vetted(
    steps: Mapping[str, Step], expected: Sequence[Any], *, optional: Sequence[str]
) -> tuple[dict[str, Step], dict[str, str]]:
    """The steps that give the `expected` arrays, and for each `optional` one that fails, why.

    The others must not fail: a contender that is wrong has no time.
    """
    fit, unfit = {}, {}
    for name, step in steps.items():
        try:
            _check(step(), expected)
        except Exception as error:
            if name not in optional:
                raise
            unfit[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        else:
            fit[name] = step
    return fit, unfit


def _check(found: Any, expected: Sequence[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(_values(one), _values(other), rtol=1e-4, atol=1e-5)


def _values(x: Any) -> np.ndarray:
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
