"""The strategies that are tried for the derivative of a function: NOTE [two ways]."""

from collections.abc import Callable
from typing import Any

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.torch.autodiff.function_calls import has_jvp
from bridge._sources.torch.autodiff.transforms import (
    dual_jvp,
    jvp_by_double_vjp,
    recorded_jvp,
    recorded_vjp,
    transformed_jvp,
    transformed_vjp,
    with_zero_output_tangents,
)
from bridge._sources.torch.capture.environment import Fun
from bridge._sources.torch.state.escaped_values import (
    check_attached,
    dependence_by_graph,
    dependence_by_perturbation,
)

Strategy = Callable[..., Fun]
# torch.func cannot batch what these make.
RECORDED = (recorded_vjp, recorded_jvp, dual_jvp)


def gradient_strategies(
    function: Any, argnums: Positions, outnums: Positions
) -> list[tuple[Fun, Strategy]]:
    """Return functions that compute the gradients of `function`, each with its strategy."""
    fun, reruns = function.fun_to_differentiate, function.program is None
    if reruns or function.observer.copied:
        depends = (
            dependence_by_perturbation(fun)
            if reruns
            else dependence_by_graph(function.program, argnums)
        )
        recorded = tuple(i for i in outnums if i not in function.unrecorded)
        fun = check_attached(fun, function.name, recorded, depends)
    no_func = (
        function.needs_recorded_derivatives
        or reruns
        or function.computes_custom_gradients
        or function.observer.copied
    )
    strategies: list[Strategy] = [recorded_vjp] if no_func else [transformed_vjp, recorded_vjp]
    count = len(function.primals)
    return [(strategy(fun, count, argnums, outnums), strategy) for strategy in strategies]


def tangent_strategies(
    function: Any, argnums: Positions, outnums: Positions
) -> list[tuple[Fun, Strategy]]:
    """Return functions that compute the tangents of `function`, each with its strategy."""
    count, fun = len(function.primals), function.transformed_fun or function.fun_to_differentiate
    strategies: list[Strategy] = [transformed_jvp, jvp_by_double_vjp, recorded_jvp]
    if recorded_tangent_strategy(function) is dual_jvp:
        strategies, fun = [dual_jvp], function.fun_to_differentiate
        _check_no_nested_jvp(function)
    elif not function.program:  # without a graph nothing tells whether a gradient is linear
        strategies = [transformed_jvp]
    elif function.needs_recorded_derivatives or function.computes_custom_gradients:
        strategies = [recorded_jvp]
    elif function.observer.unrecorded:
        strategies = [jvp_by_double_vjp, recorded_jvp]
    funs = [(fun, strategy) for strategy in strategies]
    if not function.program and (function.observer.unrecorded or function.observer.hooked):
        funs += [(function.fun_to_differentiate, recorded_jvp)]
    if function.differentiable_fun and function.program and not function.computes_custom_gradients:
        funs += [(function.differentiable_fun, recorded_jvp)]
    tangents = [(strategy(fun, count, argnums, outnums), strategy) for fun, strategy in funs]
    zeros = [i for i, outnum in enumerate(outnums) if outnum in function.unrecorded]
    return (
        [(with_zero_output_tangents(f, zeros), strategy) for f, strategy in tangents]
        if zeros
        else tangents
    )


def recorded_tangent_strategy(function: Any) -> Strategy:
    """Return the strategy for tangents without torch.func: by the jvp rules of users, if any."""
    return dual_jvp if any(map(has_jvp, function.observer.functions)) else recorded_jvp


def _check_no_nested_jvp(function: Any) -> None:
    """Raise if tangents of tangents by users' rules are asked for."""
    if function.strategy is dual_jvp:  # torch refuses some, and returns zeros for others
        names = ", ".join(sorted(cls.__name__ for cls in function.observer.functions))
        raise NoRuleError(
            f"{function.name} has no tangents: torch takes no tangents of tangents where an "
            f"autograd.Function has a jvp ({names}). Take one of the derivatives in reverse mode."
        )
