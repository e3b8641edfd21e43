"""In which ways the derivative of a function is tried: NOTE [two ways]."""

from collections.abc import Callable
from typing import Any

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.torch.autodiff.function_calls import has_jvp
from bridge._sources.torch.autodiff.transforms import (
    dual_jvp,
    recorded_jvp,
    recorded_vjp,
    transformed_jvp,
    transformed_vjp,
    transposed_jvp,
    with_zeros,
)
from bridge._sources.torch.capture.trace import Fun
from bridge._sources.torch.state.escaped_values import (
    check_attached,
    depends_by_graph,
    depends_by_value,
)

Strategy = Callable[..., Fun]
# What these make is not to be batched by torch.func.
RECORDED = (recorded_vjp, recorded_jvp, dual_jvp)


def gradient_strategies(
    function: Any, argnums: Positions, outnums: Positions
) -> list[tuple[Fun, Strategy]]:
    """Gradients of `function`, with the way in which they are taken."""
    fun, anew = function.base_fun, function.program is None
    if anew or function.observer.copied:
        depends = depends_by_value(fun) if anew else depends_by_graph(function.program, argnums)
        recorded = tuple(i for i in outnums if i not in function.unrecorded)
        fun = check_attached(fun, function.name, recorded, depends)
    plain = function.recorded or anew or function.is_second_order or function.observer.copied
    ways: list[Strategy] = [recorded_vjp] if plain else [transformed_vjp, recorded_vjp]
    return [(way(fun, len(function.primals), argnums, outnums), way) for way in ways]


def tangent_strategies(
    function: Any, argnums: Positions, smooth: Positions
) -> list[tuple[Fun, Strategy]]:
    """Tangents of `function`, with the way in which they are taken."""
    count, fun = len(function.primals), function.twin or function.base_fun
    ways: list[Strategy] = [transformed_jvp, transposed_jvp, recorded_jvp]
    if forward_strategy(function) is dual_jvp:
        ways, fun = [dual_jvp], function.base_fun
        _check_nesting(function)
    elif not function.program:  # nothing would tell whether a gradient is linear
        ways = [transformed_jvp]
    elif function.recorded or function.is_second_order:
        ways = [recorded_jvp]
    elif function.observer.unrecorded:
        ways = [transposed_jvp, recorded_jvp]
    made = [(way(fun, count, argnums, smooth), way) for way in ways]
    if not function.program and (function.observer.unrecorded or function.observer.hooked):
        made += [(recorded_jvp(function.base_fun, count, argnums, smooth), recorded_jvp)]
    if function.differentiable_fun and function.program and not function.is_second_order:
        made += [(recorded_jvp(function.differentiable_fun, count, argnums, smooth), recorded_jvp)]
    still = [i for i, output in enumerate(smooth) if output in function.unrecorded]
    return [(with_zeros(tangents, still), way) for tangents, way in made] if still else made


def forward_strategy(function: Any) -> Strategy:
    """How tangents are taken where torch.func is no way: by the rules of users, if there are."""
    return dual_jvp if any(map(has_jvp, function.observer.functions)) else recorded_jvp


def _check_nesting(function: Any) -> None:
    if function.strategy is dual_jvp:  # torch refuses some, and gives 0 for others
        names = ", ".join(sorted(cls.__name__ for cls in function.observer.functions))
        raise NoRuleError(
            f"{function.name} has no tangents: torch takes no tangents of tangents where an "
            f"autograd.Function has a jvp ({names}). Take one of the derivatives in reverse mode."
        )
