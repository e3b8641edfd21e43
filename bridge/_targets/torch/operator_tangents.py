"""Forward mode for operators of `torch.library`.

NOTE [tangents of an operator]
Torch has no way to give such an operator tangents: its autograd kernel drops them, so that an
output has the tangent zero, without an error. A kernel in front of that one computes the outputs
from the primals, and their tangents by operators of their own, which autograd and the surrounding
levels of torch.func see. Calls without tangents are passed on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._arrays.torch import transforming
from bridge._arrays.torch.upstream.call_sites import in_forward_mode
from bridge._core.errors import NoRuleError

# Stored because its registrations end when it is freed.
_library = torch.library.Library("bridge", "FRAGMENT")


def register_tangents(
    operator: Any,
    rule: Callable[..., list[torch.Tensor | None]],
    with_gradient: Callable[..., Sequence[torch.Tensor]],
    saving: Callable[..., list[torch.Tensor] | None] = lambda *_: None,
) -> None:
    """Give tangents to `operator`, whose last argument is a list of tensors.

    `rule(*others, primals, argnums, tangents)` returns a tangent or `None` for each output.
    `with_gradient(*others, xs)` calls a Function on dual tensors that require grad, so that the
    tensors that it saves for its gradient have tangents as well. `saving(*others, xs)` calls
    another operator instead, which saves for its gradient, or returns `None`.
    """
    plain = torch.library.get_kernel(operator, "AutogradCPU")  # one for all devices

    def kernel(keys: Any, *args: Any) -> Any:
        *others, xs = args
        tangents = _tangents(xs) if in_forward_mode() else {}
        if not tangents:
            _check_not_func_grad(xs)
            requires_grad = torch.is_grad_enabled() and any(x.requires_grad for x in xs)
            outputs = saving(*args) if requires_grad else None
            return plain.call_boxed(keys, *args) if outputs is None else outputs
        if torch.is_grad_enabled() and any(x.requires_grad for x in xs):
            _check_not_func_grad(xs)
            return list(with_gradient(*args))
        primals = [forward_ad.unpack_dual(x).primal for x in xs]
        outputs = operator(*others, primals)
        output_tangents = rule(*others, primals, [*tangents], [*tangents.values()])
        return [
            y if t is None else forward_ad.make_dual(y, t)
            for y, t in zip(outputs, output_tangents, strict=True)
        ]

    for device in _DEVICES:
        _library.impl(operator, kernel, f"Autograd{device}", with_keyset=True)


# Not `Autograd` for all: torch keeps one Python kernel for each name, and `plain` has that one.
_DEVICES = ("CPU", "CUDA", "MPS", "XPU", "Meta")


def _tangents(xs: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Return the tangents of the tensors that have one, by position."""
    tangents = {i: forward_ad.unpack_dual(x).tangent for i, x in enumerate(xs)}
    return {i: tangent for i, tangent in tangents.items() if tangent is not None}


def _check_not_func_grad(xs: Sequence[torch.Tensor]) -> None:
    """Raise where torch would raise, and ask for a `setup_context` that nobody can write."""
    if transforming() and torch.is_grad_enabled() and any(x.requires_grad for x in xs):
        raise NoRuleError(
            "torch.func.grad, vjp, jacrev and hessian cannot differentiate a recorded call of a "
            "bridged function. Differentiate the recorded program with torch.autograd.grad or "
            "torch.func.jacfwd, or transform the function before it is recorded."
        )
