"""Results that depend on arguments by values that have left torch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.torch.autodiff.gradient_flow import COPYING, DETACHING, LEAVING, is_smooth
from bridge._sources.torch.internals import set_grad_enabled
from bridge._sources.torch.program import Program
from bridge._sources.torch.state.dry_run import dry_run

Fun = Callable[..., Sequence[torch.Tensor]]
# Whether a result, at its position, depends on the arguments.
Depends = Callable[[Sequence[torch.Tensor], int], bool]


class EscapeObserver(TorchFunctionMode):
    """Notes whether values leave torch, and whether the user stops gradients."""

    left = False
    stopped = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, looked at."""
        if func in LEAVING or func in COPYING:
            self.left |= any(map(is_smooth, args))
        if func in DETACHING or (func is set_grad_enabled and not args[0]):
            self.stopped = True
        return func(*args, **(kwargs or {}))


def check_attached(fun: Fun, name: str, outnums: Positions, depends: Depends) -> Fun:
    """`fun`, unless one of its results at `given` has lost its gradient without the user's will."""

    def checked(*xs: torch.Tensor) -> Sequence[torch.Tensor]:
        with EscapeObserver() as leaving:
            found = fun(*xs)
        if not any(x.requires_grad for x in xs) or (leaving.stopped and not leaving.left):
            return found
        for i in outnums:
            if is_smooth(found[i]) and not found[i].requires_grad and depends(xs, i):
                raise NoRuleError(
                    f"result {i} of {name} depends on its arguments, but by values that have left "
                    "torch, as through NumPy, float() or .item(), and carries no gradient. Compute "
                    "it by operations of torch or in an autograd.Function with a backward, or stop "
                    "gradients around the call."
                )
        return found

    return checked


def depends_by_graph(program: Program, argnums: Positions) -> Depends:
    """Tells that a result of a graph depends on arguments at `wanted`."""
    return lambda _, i: not program.dependencies()[i].isdisjoint(argnums)


def depends_by_value(fun: Fun) -> Depends:
    """Tells that a result depends on arguments by moving these a little."""

    def depends(xs: Sequence[torch.Tensor], i: int) -> bool:
        state = torch.get_rng_state()
        try:
            with dry_run():
                before, after = (
                    _run(fun, [_moved(x, step) for x in xs], state)[i].clone() for step in (0, 1)
                )
        finally:
            torch.set_rng_state(state)
        return before.shape != after.shape or not torch.equal(before, after)

    return depends


def _run(fun: Fun, xs: Sequence[torch.Tensor], state: torch.Tensor) -> Sequence[torch.Tensor]:
    torch.set_rng_state(state)
    return fun(*xs)


def _moved(x: torch.Tensor, step: int) -> torch.Tensor:
    """`x` without its gradient; if it has one, each element larger by about a thousandth."""
    plain = x.detach().clone()
    return plain + 1e-3 * step * (1 + plain.abs()) if x.requires_grad else plain
