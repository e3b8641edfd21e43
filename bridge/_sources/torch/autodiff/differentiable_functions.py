"""Second derivatives of functions that call `autograd.Function`s.

NOTE [gradients of gradients]
torch differentiates the `backward` of an `autograd.Function` as code. It loses the derivative by
values that `forward` saves besides arguments and results, and of what is computed where no
gradients are recorded. But a gradient is a function of arguments, results and cotangents, and its
graph has a derivative. So where torch cannot differentiate the code, a Function is replaced by two
graphs from the second derivative on. Results that `backward` uses are treated as torch does: their
derivative is the gradient that the user wrote.
"""

from collections.abc import Callable
from typing import Any

import torch

from bridge._arrays.torch.upstream.modes import without_modes
from bridge._core.errors import ArgumentError, NoRuleError, NoValuesError
from bridge._core.pytree import scatter
from bridge._sources.torch.autodiff.example_inputs import example_inputs
from bridge._sources.torch.autodiff.function_calls import has_backward, intercept_apply
from bridge._sources.torch.autodiff.function_graphs import FunctionGraphs, Obstacles
from bridge._sources.torch.capture.environment import Fun, preserve_rng
from bridge._sources.torch.program import Settings


def with_differentiable_functions(fun: Fun, settings: Settings) -> Fun:
    """Make the gradients of `fun` differentiable: NOTE [gradients of gradients]."""

    def intercept(cls: Any, args: tuple[Any, ...], apply: Callable[..., Any]) -> Any:
        recorded = any(isinstance(x, torch.Tensor) and x.requires_grad for x in args)
        if not recorded or not has_backward(cls):
            return apply(*args)
        graphs = FunctionGraphs(cls, args, settings)
        with without_modes():
            obstacles = _find_double_backward_obstacles(graphs)
        if not obstacles.code:
            return apply(*args)
        if obstacles.graph:
            raise _no_rule_error(graphs, obstacles)
        return _apply_graphs(graphs, args)

    def results(*xs: torch.Tensor) -> Any:
        with intercept_apply(intercept):
            return fun(*xs)

    return results


def _find_double_backward_obstacles(graphs: FunctionGraphs) -> Obstacles:
    """Return what prevents the differentiation of a Function's gradient, as code or as a graph."""
    try:
        return graphs.gradient[1].obstacles
    except (RuntimeError, ArgumentError) as error:
        reason = str(error).removesuffix(".")
    except NoValuesError:
        reason = "no graph can be made of it, since it looks at the values of tensors"
    try:
        with preserve_rng():
            obstacles = graphs.observe(example_inputs(graphs.primals))
    except (RuntimeError, TypeError, ValueError):  # as of a singular matrix
        obstacles = Obstacles(code="its backward cannot be recorded")
    return Obstacles(code=obstacles.code, graph=obstacles.graph or reason)


def _no_rule_error(graphs: FunctionGraphs, obstacles: Obstacles) -> NoRuleError:
    return NoRuleError(
        f"the gradient of the autograd.Function {graphs.name} cannot be differentiated: "
        f"{obstacles.code}, and {obstacles.graph}. Write its backward in operations of torch on "
        "its arguments, its results and the cotangents."
    )


def _apply_graphs(graphs: FunctionGraphs, args: tuple[Any, ...]) -> Any:
    """Compute the results of a Function by its graphs."""
    xs = [args[i].contiguous().resolve_conj().resolve_neg() for i in graphs.argnums]
    tensors = iter(_GraphFunction.apply(graphs, *xs))
    outputs = [next(tensors) if isinstance(y, torch.Tensor) else y for y in graphs.results]
    return outputs[0] if graphs.is_single else tuple(outputs)


class _GraphFunction(torch.autograd.Function):
    """A Function that computes another by its graphs."""

    @staticmethod
    def forward(ctx: Any, graphs: FunctionGraphs, *xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ys = tuple(graphs.values.run(*xs))
        ctx.graphs = graphs
        ctx.save_for_backward(*xs, *ys)
        ctx.mark_non_differentiable(*(ys[i] for i in graphs.non_differentiable))
        return ys

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raise, since tangents by a user's rule are not those from gradients."""
        raise NoRuleError(
            f"the autograd.Function {ctx.graphs.name} has a jvp, and a gradient that torch cannot "
            "differentiate. Write its backward in operations of torch on its arguments, its "
            "results and the cotangents."
        )

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        argnums = ctx.graphs.argnums
        program, backward = ctx.graphs.gradient
        gradients = program.run(*ctx.saved_tensors, *cotangents)
        positions = [1 + argnums.index(i) for i in backward.argnums]
        return tuple(scatter(gradients, positions, [None] * (1 + len(argnums))))
