"""Functions with `autograd.Function`s in them, for derivatives of their derivatives.

NOTE [gradients of gradients]
torch differentiates the `backward` of an `autograd.Function` as code. It has nothing there for what
a Function keeps of its `forward` besides arguments and results, nor for what is computed where no
gradients are recorded. But a gradient is a function of arguments, results and cotangents, and as a
graph it has a derivative. So where torch cannot differentiate the code, a Function is two graphs
from the second derivative on. Results that `backward` uses stay what they are to torch: their
derivative is the gradient that the user wrote.
"""

from collections.abc import Callable
from typing import Any

import torch

from bridge._core.errors import ArgumentError, NoRuleError, NoValuesError
from bridge._core.pytree import replace_at
from bridge._sources.torch.autodiff.eager import example_inputs
from bridge._sources.torch.autodiff.function_calls import has_backward, intercept_apply
from bridge._sources.torch.autodiff.function_graphs import FunctionGraphs, Notes
from bridge._sources.torch.capture.trace import Fun
from bridge._sources.torch.internals import without_modes
from bridge._sources.torch.program import Settings


def with_differentiable_functions(fun: Fun, settings: Settings) -> Fun:
    """`fun`, the gradients in which can be differentiated: NOTE [gradients of gradients]."""

    def intercept(cls: Any, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        moves = any(isinstance(x, torch.Tensor) and x.requires_grad for x in args)
        if not moves or not has_backward(cls):
            return apply(*args)
        pair = FunctionGraphs(cls, args, settings)
        with without_modes():
            notes = _notes(pair)
        if not notes.closed:
            return apply(*args)
        if notes.unsound:
            raise _no_rule_error(pair, notes)
        return _apply_pair(pair, args)

    def results(*xs: torch.Tensor) -> Any:
        with intercept_apply(intercept):
            return fun(*xs)

    return results


def _notes(pair: FunctionGraphs) -> Notes:
    """What tells whether the gradient of `pair` can be differentiated, and how."""
    try:
        return pair.gradient[1].notes
    except (RuntimeError, ArgumentError) as error:
        reason = str(error).removesuffix(".")
    except NoValuesError:
        reason = "no graph can be made of it, since it looks at the values of tensors"
    state = torch.get_rng_state()
    try:
        notes = pair.observe(example_inputs(pair.primals))
    except (RuntimeError, TypeError, ValueError):  # as of a singular matrix
        notes = Notes(closed="its backward cannot be recorded")
    finally:
        torch.set_rng_state(state)
    return Notes(closed=notes.closed, unsound=notes.unsound or reason)


def _no_rule_error(pair: FunctionGraphs, notes: Notes) -> NoRuleError:
    return NoRuleError(
        f"the gradient of the autograd.Function {pair.name} cannot be differentiated: "
        f"{notes.closed}, and {notes.unsound}. Write its backward in operations of torch on its "
        "arguments, its results and the cotangents."
    )


def _apply_pair(pair: FunctionGraphs, args: tuple[Any, ...]) -> Any:
    """The results of a Function by its graphs."""
    xs = [args[i].contiguous().resolve_conj().resolve_neg() for i in pair.at]
    found = iter(_Graphs.apply(pair, *xs))
    row = [next(found) if isinstance(y, torch.Tensor) else y for y in pair.results]
    return row[0] if pair.single else tuple(row)


class _Graphs(torch.autograd.Function):
    """A Function by its graphs."""

    @staticmethod
    def forward(ctx: Any, pair: FunctionGraphs, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ys = tuple(pair.values.run(*xs))
        ctx.pair = pair
        ctx.save_for_backward(*xs, *ys)
        ctx.mark_non_differentiable(*(ys[i] for i in pair.fixed))
        return ys

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Refused: where tangents have a rule of the user, they are not taken from gradients."""
        raise NoRuleError(
            f"the autograd.Function {ctx.pair.name} has a jvp, and a gradient that torch cannot "
            "differentiate. Write its backward in operations of torch on its arguments, its "
            "results and the cotangents."
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        program, backward = ctx.pair.gradient
        gradients = program.run(*ctx.saved_tensors, *cotangents)
        at = [1 + ctx.pair.at.index(i) for i in backward.at]
        return tuple(replace_at(gradients, at, [None] * (1 + len(ctx.pair.at))))
