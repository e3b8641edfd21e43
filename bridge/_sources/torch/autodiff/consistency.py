"""Derivatives of a function in one way, held against those in another."""

from typing import Any

from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import Positions, Specs
from bridge._sources.torch.autodiff.eager import DISAGREE, follows_tangents, transposed
from bridge._sources.torch.autodiff.strategies import forward
from bridge._sources.torch.autodiff.transforms import dual_jvp, transformed_jvp
from bridge._sources.torch.batching.rng_consistency import (
    OTHER_DRAWS,
    begin_alike,
    same,
    same_gradients,
    same_tangents,
)
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.internals import is_about_style, needs_values


def no_rule(rule: str, name: str, error: Exception | None) -> NoRuleError:
    """The error of a function that torch cannot derive by this rule."""
    if rule == "jvp" and error and needs_values(error):
        error = NoRuleError(
            "values leave torch, as through NumPy, where forward mode cannot follow. Give an "
            "autograd.Function with a jvp to what computes there, or use reverse mode."
        )
    if rule == "jvp" and error and is_about_style(error):
        error = NoRuleError(
            "forward mode takes an autograd.Function that looks at values if it has a jvp, or a "
            "setup_context. Give it one, or use reverse mode."
        )
    return NoRuleError(f"torch has no {rule} of {name}: {error}")


def disagreement(function: Any) -> NoRuleError:
    """The error of derivatives of `function` that do not go together."""
    return NoRuleError(OTHER_DRAWS if function.seeded else DISAGREE)


def accepts_gradients(
    function: Any, gradients: Any, wanted: Positions, given: Positions, primals: Specs
) -> bool:
    """Whether these gradients are those of the random numbers and questions of the function."""
    if function.batched and function.blocks.asked:
        each = function.batched.vjp(wanted, given).program
        return gradients.program is not None and same(gradients.program.run, each.run, primals)
    if not function.seeded:
        return True
    split = function.split(wanted, given)
    if split is None:  # the gradients draw too, after the function
        return gradients.program is None or begin_alike(function.program, gradients.program)
    seed = function.settings.seed or 0
    halves = function.op(), gradients.op(), split
    return same_gradients(*halves, wanted, given, primals=function.primals, seed=seed)


def accepts_tangents(function: Any, tangents: Any, given: Positions, smooth: Positions) -> bool:
    """Whether these are the tangents that go with the gradients; raises if none can be."""
    if forward(function) is dual_jvp:  # a rule of the user, which may be another
        return True
    if not function.seeded:
        return _transposes(function, tangents, given, smooth)
    both, seed = (function.op(), tangents.op()), function.settings.seed or 0
    return same_tangents(*both, given, smooth, primals=function.primals, seed=seed)


def _transposes(function: Any, tangents: Any, given: Positions, smooth: Positions) -> bool:
    if tangents.way is not transformed_jvp:
        _check_linear(function, tangents, smooth)
    gradients = function.vjp(given, smooth)
    moving = tuple(function.primals[i] for i in given)
    cotangents = tuple(function.outputs[i] for i in smooth)
    both = tangents.op().call, gradients.op().call
    if transposed(*both, function.primals, moving, cotangents):
        return True
    # A Function or an operator of the user's has the gradient that the user wants.
    native = tangents.way is transformed_jvp and not function.blocks.functions
    if native and not (function.program and function.program.foreign):
        values = function.op().call
        if follows_tangents(values, both, function.primals, given, smooth):
            raise NoRuleError(
                f"torch has the gradient of {function.name} wrong: its tangents go with its "
                "values, and its gradient does not. Write another operator in its place, and "
                "report the one that is wrong to torch."
            )
    return False


def _check_linear(function: Any, tangents: Any, smooth: Positions) -> None:
    """Raise unless there are tangents: NOTE [tangents from gradients]."""
    primals = (*tangents.primals, *(function.outputs[i] for i in smooth))
    count, name = len(tangents.primals), function.name
    try:
        program = trace(tangents.fun, primals, name=tangents.name, settings=function.settings)
    except NoValuesError as error:
        raise NoRuleError(
            f"torch has no jvp of {name}: a gradient in it looks at values, so that nothing tells "
            "whether it is linear in the cotangent. Give an autograd.Function in it a jvp, or use "
            "reverse mode."
        ) from error
    if any(max(positions, default=0) >= count for positions in program.reach()):
        raise NoRuleError(
            f"{name} has no tangents: torch has no forward formula for it, and an "
            "autograd.Function or a custom operator in it has a gradient that is not linear "
            "in the cotangent, as where gradients are clipped. Give that a jvp, or use "
            "reverse mode."
        )
