"""An `autograd.Function` whose backward reruns a function and differentiates that run."""

from collections.abc import Callable
from typing import Any

import torch

from bridge._arrays.torch.upstream.tensors import versions
from bridge._core.errors import NoRuleError

PLAIN = object()  # returned by a function to let the Function itself compute


def recomputing_function(cls: Any, call: Callable[..., Any], *, takes_context: bool) -> Any:
    """Make a Function in the place of `cls` that computes `call`, or what `cls` computes.

    Args:
        cls: A Function.
        call: A function with the arguments and results of `cls`, which autograd records; or it
            returns `PLAIN`.
        takes_context: True if `forward` of `cls` takes the context.
    """
    rules = _Rules(cls, call)
    members: dict[str, Callable[..., Any]] = {"backward": rules.backward, "jvp": rules.jvp}
    if takes_context:
        members["forward"] = rules.forward
    else:
        members |= {"forward": rules.compute, "setup_context": rules.set_up}
    functions = {name: staticmethod(rule) for name, rule in members.items()}
    return type(cls.__name__, (torch.autograd.Function,), functions)


def has_own(cls: Any, rule: str) -> bool:
    """Return True if the user wrote this rule of a Function."""
    return getattr(cls, rule) is not getattr(torch.autograd.Function, rule)


class _Rules:
    """The rules of one call of such a Function.

    Attributes:
        constant_outputs: For each output, True if it has no gradient; None if `cls` computes
            them.
    """

    constant_outputs: list[bool] | None = None

    def __init__(self, cls: Any, call: Callable[..., Any]) -> None:
        self._cls, self._call = cls, call

    def forward(self, ctx: Any, *args: Any) -> Any:
        """Compute the outputs and save the arguments; the `forward` of torch 1."""
        outputs = self._call_recorded(args)
        if self.constant_outputs is None:
            return self._cls.forward(ctx, *args)
        self._save(ctx, args, outputs)
        return outputs

    def compute(self, *args: Any) -> Any:
        """Compute the outputs; the `forward` of torch 2."""
        outputs = self._call_recorded(args)
        return self._cls.forward(*args) if self.constant_outputs is None else outputs

    def set_up(self, ctx: Any, args: Any, outputs: Any) -> None:
        """Save the arguments; the `setup_context` of torch 2."""
        if self.constant_outputs is None:
            self._cls.setup_context(ctx, args, outputs)
        else:
            self._save(ctx, args, outputs)

    def _call_recorded(self, args: Any) -> Any:
        """Call the function; return its outputs detached, and note which have no gradient."""
        before = versions(args)
        with torch.enable_grad():
            outputs = self._call(*args)
        if outputs is PLAIN:
            return outputs
        if versions(args) != before:
            name = self._cls.__name__
            raise NoRuleError(
                f"the gradient of the autograd.Function {name} cannot be differentiated: its "
                f"forward changes an argument in place. Call {name}.apply where it is used, not "
                "by a name that was given to it before."
            )
        values = _as_tuple(outputs)
        self.constant_outputs = [
            isinstance(y, torch.Tensor) and not y.requires_grad for y in values
        ]
        detached = tuple(y.detach() if isinstance(y, torch.Tensor) else y for y in values)
        return detached if isinstance(outputs, tuple) else detached[0]

    def _save(self, ctx: Any, args: Any, outputs: Any) -> None:
        """Save the arguments for a rerun in the backward."""
        ctx.others = [None if isinstance(x, torch.Tensor) else x for x in args]
        ctx.argnums = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor)]
        ctx.save_for_backward(*(args[i] for i in ctx.argnums))
        ctx.set_materialize_grads(False)
        pairs = zip(_as_tuple(outputs), self.constant_outputs or (), strict=True)
        ctx.mark_non_differentiable(*(y for y, is_constant in pairs if is_constant))

    def backward(self, ctx: Any, *cotangents: Any) -> Any:
        """Rerun the function, and take its gradients."""
        if self.constant_outputs is None:
            rule = self._cls.backward if has_own(self._cls, "backward") else self._cls.vjp
            return rule(ctx, *cotangents)
        args = list(ctx.others)
        for i, x in zip(ctx.argnums, ctx.saved_tensors, strict=True):
            args[i] = x
        with torch.enable_grad():
            outputs = _as_tuple(self._call(*args))
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

    def jvp(self, ctx: Any, *tangents: Any) -> Any:
        """Call the user's rule; raise if the function is rerun."""
        if self.constant_outputs is None:
            return self._cls.jvp(ctx, *tangents)
        name = self._cls.__name__
        raise NoRuleError(f"the autograd.Function {name} has no tangents of what it recomputes.")


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)
