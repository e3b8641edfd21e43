"""Forward mode for operators of `torch.library`.

NOTE [tangents of an operator]
Torch has no way to give such an operator tangents: its kernel for autograd drops them, so that a
result has the tangent zero, without an error. A kernel in front of it computes the results of the
primals, and those of the tangents, by operators, each of which is seen by autograd and by the
levels of torch.func around this one. What has no tangents is handed on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._arrays.torch import transforming
from bridge._core.errors import NoRuleError
from bridge._targets.torch.internals import in_forward_mode

# Its registrations last as long as it does.
_library = torch.library.Library("bridge", "FRAGMENT")


def register_tangents(
    operator: Any,
    rule: Callable[..., list[torch.Tensor | None]],
    with_gradient: Callable[..., Sequence[torch.Tensor]],
) -> None:
    """Give `operator`, whose last argument is a list of tensors, tangents: those `rule` returns.

    `rule(*others, primals, argnums, tangents)` returns a tangent or `None` for each output, and
    `with_gradient(*others, xs)` calls a Function on dual tensors that require grad: what it saves
    for its gradient has tangents as well.
    """
    plain = torch.library.get_kernel(operator, "AutogradCPU")  # one for all devices

    def kernel(keys: Any, *args: Any) -> Any:
        *others, xs = args
        moving = _tangents(xs) if in_forward_mode() else {}
        if not moving:
            _check_differentiable(xs)
            return plain.call_boxed(keys, *args)
        if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
            _check_differentiable(xs)
            return list(with_gradient(*args))
        primals = [forward_ad.unpack_dual(x).primal for x in xs]
        outputs = operator(*others, primals)
        tangents = rule(*others, primals, [*moving], [*moving.values()])
        return [
            y if t is None else forward_ad.make_dual(y, t)
            for y, t in zip(outputs, tangents, strict=True)
        ]

    for device in _DEVICES:
        _library.impl(operator, kernel, f"Autograd{device}", with_keyset=True)


# Not `Autograd` for all: torch keeps one kernel in Python for each name, and `plain` has that one.
_DEVICES = ("CPU", "CUDA", "MPS", "XPU", "Meta")


def _tangents(xs: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """The tangents of those that have one, by position."""
    duals = {i: forward_ad.unpack_dual(x).tangent for i, x in enumerate(xs)}
    return {i: tangent for i, tangent in duals.items() if tangent is not None}


def _check_differentiable(xs: Sequence[torch.Tensor]) -> None:
    """Raise where torch would, which asks for a `setup_context` that nobody can give."""
    if transforming() and torch.is_grad_enabled() and any(x.requires_grad for x in xs):
        raise NoRuleError(
            "torch.func.grad, vjp, jacrev and hessian cannot differentiate a recorded call of a "
            "bridged function. Differentiate the recorded program with torch.autograd.grad or "
            "torch.func.jacfwd, or transform the function before it is recorded."
        )
