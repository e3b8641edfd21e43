"""An `autograd.Function` whose backward calls a function again and differentiates that."""

from collections.abc import Callable
from typing import Any

import torch

from bridge._core.errors import NoRuleError


def recomputing_function(name: str, call: Callable[..., Any], *, takes_context: bool) -> Any:
    """Make a Function that computes `call`, in the style of before torch 2 if it `takes_context`.

    `call` takes and returns what the Function does, and is recorded by autograd.
    """
    constant: list[bool] = []  # which outputs have no gradient

    def compute(*args: Any) -> Any:
        versions = [x._version for x in args if isinstance(x, torch.Tensor)]
        with torch.enable_grad():
            outputs = call(*args)
        if versions != [x._version for x in args if isinstance(x, torch.Tensor)]:
            raise NoRuleError(
                f"the gradient of the autograd.Function {name} cannot be differentiated: its "
                f"forward changes an argument in place. Call {name}.apply where it is used, not "
                "by a name that was given to it before."
            )
        constant[:] = [isinstance(y, torch.Tensor) and not y.requires_grad for y in _row(outputs)]
        values = tuple(y.detach() if isinstance(y, torch.Tensor) else y for y in _row(outputs))
        return values if isinstance(outputs, tuple) else values[0]

    def set_up(ctx: Any, args: Any, outputs: Any) -> None:
        ctx.call = call
        ctx.others = [None if isinstance(x, torch.Tensor) else x for x in args]
        ctx.argnums = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor)]
        ctx.save_for_backward(*(args[i] for i in ctx.argnums))
        ctx.set_materialize_grads(False)
        pairs = zip(_row(outputs), constant, strict=True)
        ctx.mark_non_differentiable(*(y for y, is_constant in pairs if is_constant))

    def forward(ctx: Any, *args: Any) -> Any:
        outputs = compute(*args)
        set_up(ctx, args, outputs)
        return outputs

    rules: dict[str, Callable[..., Any]] = (
        {"forward": forward} if takes_context else {"forward": compute, "setup_context": set_up}
    )
    rules["backward"] = _backward
    return type(name, (torch.autograd.Function,), {k: staticmethod(v) for k, v in rules.items()})


def _backward(ctx: Any, *cotangents: Any) -> Any:
    args = list(ctx.others)
    for i, x in zip(ctx.argnums, ctx.saved_tensors, strict=True):
        args[i] = x
    with torch.enable_grad():
        outputs = _row(ctx.call(*args))
    pairs = [
        (y, cotangent)
        for y, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and isinstance(y, torch.Tensor) and y.requires_grad
    ]
    argnums = [i for i in ctx.argnums if args[i].requires_grad]
    gradients = torch.autograd.grad(
        [y for y, _ in pairs],
        [args[i] for i in argnums],
        [cotangent for _, cotangent in pairs],
        create_graph=torch.is_grad_enabled(),
        allow_unused=True,
    )
    by_position = dict(zip(argnums, gradients, strict=True))
    return tuple(by_position.get(i) for i in range(len(args)))


def _row(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
