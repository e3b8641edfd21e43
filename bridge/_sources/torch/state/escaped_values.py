"""Outputs that depend on arguments through values that left torch, and so have no gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.modes import set_grad_enabled
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.torch.autodiff.gradient_flow import (
    COPYING,
    DETACHING,
    LEAVING,
    is_differentiable,
)
from bridge._sources.torch.capture.environment import Fun, preserve_rng
from bridge._sources.torch.program import Program
from bridge._sources.torch.state.dry_run import dry_run

# `(arguments, output position) -> True if the output depends on the arguments`.
DependenceTest = Callable[[Sequence[torch.Tensor], int], bool]


class EscapeObserver(TorchFunctionMode):
    """Notes whether values leave torch, and whether the user stops gradients.

    Attributes:
        left: True if the values of a float tensor left torch, as to NumPy.
        stopped: True if the function detaches tensors or switches gradients off.
    """

    left = False
    stopped = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and note it."""
        if func in LEAVING or func in COPYING:
            self.left |= any(map(is_differentiable, args))
        if func in DETACHING or (func is set_grad_enabled and not args[0]):
            self.stopped = True
        return func(*args, **(kwargs or {}))


def check_attached(fun: Fun, name: str, outnums: Positions, depends: DependenceTest) -> Fun:
    """Make `fun` raise if one of its outputs at `outnums` lost its gradient by accident."""

    def checked(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        with EscapeObserver() as observer:
            outputs = fun(*xs)
        if not any(x.requires_grad for x in xs) or (observer.stopped and not observer.left):
            return outputs
        for i in outnums:
            lost = is_differentiable(outputs[i]) and not outputs[i].requires_grad
            if lost and depends(xs, i):
                raise NoRuleError(
                    f"result {i} of {name} depends on its arguments, but through values that "
                    "have left torch, as by NumPy, float() or .item(), so it carries no gradient. "
                    "Compute it by operations of torch or in an autograd.Function with a backward, "
                    "or stop gradients around the call."
                )
        return outputs

    return checked


def dependence_by_graph(program: Program, argnums: Positions) -> DependenceTest:
    """Return a test, by its graph, of whether an output depends on the arguments at `argnums`."""
    return lambda _, i: not program.dependencies()[i].isdisjoint(argnums)


def dependence_by_perturbation(fun: Fun) -> DependenceTest:
    """Return a test of whether an output depends on the arguments, which moves these a little."""

    def depends(xs: Sequence[torch.Tensor], i: int) -> bool:
        with preserve_rng() as state, dry_run():
            before, after = (
                _run(fun, [_moved(x, step) for x in xs], state)[i].clone() for step in (0, 1)
            )
        return before.shape != after.shape or not torch.equal(before, after)

    return depends


def _run(fun: Fun, xs: Sequence[torch.Tensor], rng_state: torch.Tensor) -> Sequence[torch.Tensor]:
    torch.set_rng_state(rng_state)
    return fun(*xs)


def _moved(x: torch.Tensor, step: int) -> torch.Tensor:
    """Return `x` detached; if it requires a gradient, with each element about 0.1% larger."""
    plain = x.detach().clone()
    return plain + 1e-3 * step * (1 + plain.abs()) if x.requires_grad else plain
