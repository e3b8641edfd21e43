"""Many tensors: what a leaf of a tree costs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import torch

from benchmarks._contenders import FLOOR, OURS, ours, tree_floor, vetted
from benchmarks._machine import Effort
from benchmarks._peers import NAMES as PEERS, peers
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed

_LEAVES = 200
_NATIVE = "torch native"
Tensors = Mapping[str, torch.Tensor]


def _of_dict(tree: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.sin(x) * x for name, x in tree.items()}


def _of_list(xs: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sin(x) * x for x in xs]


def _of_many(*xs: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(_of_list(list(xs)))


def forward_backward(effort: Effort) -> list[Measurement]:
    """200 tensors of 16 float32 in a dict in, as many out, forward and backward."""
    names = [f"layer{i}.weight" for i in range(_LEAVES)]
    tree = {name: torch.randn(16, requires_grad=True) for name in names}
    cotangents = [torch.randn(16) for _ in names]
    others, missing = peers(_of_many, take_part=effort.peers)
    calls: dict[str, Callable[[Tensors], Tensors]] = {
        FLOOR: tree_floor(_of_list),
        _NATIVE: lambda tree: {name: torch.sin(x) * x for name, x in tree.items()},
        **ours(_of_dict),
        **{name: _flat(call) for name, call in others.items()},
    }

    def step(call: Callable[[Tensors], Tensors]) -> list[Any]:
        for x in tree.values():
            x.grad = None
        outputs = call(tree)
        torch.autograd.backward([outputs[name] for name in names], cotangents)
        return [*(outputs[name] for name in names), *(x.grad for x in tree.values())]

    steps: dict[str, Step] = {name: _bound(step, call) for name, call in calls.items()}
    expected = [x.detach().clone() for x in steps[_NATIVE]()]
    fit, unfit = vetted(steps, expected, optional=PEERS)
    return [
        Measurement(
            title=f"{_LEAVES} tensors of 16 float32 in a dict in and out, forward and backward",
            unit="us",
            values=timed(fit, seconds=effort.seconds(10), scale=1e6),
            reference=FLOOR,
            bars=[Bar("within 1.05x the floor on the same tree", OURS, FLOOR, 1.05)],
            missing=missing | unfit,
            notes=[
                f"`{calls[OURS]!r}`",
                "Peers get the tensors as positional arguments, which is all they take.",
            ],
        )
    ]


def _flat(call: Callable[..., Any]) -> Callable[[Tensors], Tensors]:
    """A function of many tensors as one of a dict."""
    return lambda tree: dict(zip(tree, call(*tree.values()), strict=True))


def _bound(step: Callable[[Any], object], call: Any) -> Step:
    return lambda: step(call)
