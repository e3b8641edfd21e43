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
)
from bridge._sources.torch.capture.trace import Fun
from bridge._sources.torch.state.escaped_values import attached, changing, reaching

Way = Callable[..., Fun]
# What these make is not to be batched by torch.func.
RECORDED = (recorded_vjp, recorded_jvp, dual_jvp)


def gradients(function: Any, wanted: Positions, given: Positions) -> list[tuple[Fun, Way]]:
    """Gradients of `function`, with the way in which they are taken."""
    fun, anew = function.base, function.program is None
    if anew or function.blocks.copied:
        depends = changing(fun) if anew else reaching(function.program, wanted)
        fun = attached(fun, function.name, given, depends)
    plain = function.recorded or anew or function.again or function.blocks.copied
    ways: list[Way] = [recorded_vjp] if plain else [transformed_vjp, recorded_vjp]
    return [(way(fun, len(function.primals), wanted, given), way) for way in ways]


def tangents(function: Any, given: Positions, smooth: Positions) -> list[tuple[Fun, Way]]:
    """Tangents of `function`, with the way in which they are taken."""
    count, fun = len(function.primals), function.twin or function.base
    ways: list[Way] = [transformed_jvp, transposed_jvp, recorded_jvp]
    if forward(function) is dual_jvp:
        ways, fun = [dual_jvp], function.base
        _check_nesting(function)
    elif not function.program:  # nothing would tell whether a gradient is linear
        ways = [transformed_jvp]
    elif function.recorded or function.again:
        ways = [recorded_jvp]
    elif function.blocks.unrecorded:
        ways = [transposed_jvp, recorded_jvp]
    made = [(way(fun, count, given, smooth), way) for way in ways]
    if function.open and function.program and not function.again:
        made += [(recorded_jvp(function.open, count, given, smooth), recorded_jvp)]
    return made


def forward(function: Any) -> Way:
    """How tangents are taken where torch.func is no way: by the rules of users, if there are."""
    return dual_jvp if any(map(has_jvp, function.blocks.functions)) else recorded_jvp


def _check_nesting(function: Any) -> None:
    if function.way is dual_jvp:  # torch refuses some, and gives 0 for others
        names = ", ".join(sorted(cls.__name__ for cls in function.blocks.functions))
        raise NoRuleError(
            f"{function.name} has no tangents: torch takes no tangents of tangents where an "
            f"autograd.Function has a jvp ({names}). Take one of the derivatives in reverse mode."
        )
