"""Derivatives of a function in one way, held against those in another."""

from typing import Any

from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import Positions, Specs
from bridge._sources.torch.autodiff.eager import DISAGREE, follows_tangents, is_transpose
from bridge._sources.torch.autodiff.strategies import forward_strategy
from bridge._sources.torch.autodiff.transforms import dual_jvp, transformed_jvp
from bridge._sources.torch.batching.rng_consistency import (
    RNG_MISMATCH,
    same_first_draws,
    same_gradients,
    same_results,
    same_tangents,
)
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.internals import is_style_error, is_value_error


def no_rule_error(rule: str, name: str, error: Exception | None) -> NoRuleError:
    """The error of a function that torch cannot derive by this rule."""
    if rule == "jvp" and error and is_value_error(error):
        error = NoRuleError(
            "values leave torch, as through NumPy, where forward mode cannot follow. Give an "
            "autograd.Function with a jvp to what computes there, or use reverse mode."
        )
    if rule == "jvp" and error and is_style_error(error):
        error = NoRuleError(
            "forward mode takes an autograd.Function that looks at values if it has a jvp, or a "
            "setup_context. Give it one, or use reverse mode."
        )
    return NoRuleError(f"torch has no {rule} of {name}: {error}")


def disagreement_error(function: Any) -> NoRuleError:
    """The error of derivatives of `function` that do not go together."""
    return NoRuleError(RNG_MISMATCH if function.is_seeded else DISAGREE)


def accepts_gradients(
    function: Any, gradients: Any, argnums: Positions, outnums: Positions, primals: Specs
) -> bool:
    """Whether these gradients are those of the random numbers and questions of the function."""
    if function.batched and function.observer.asked:
        each = function.batched.vjp(argnums, outnums).program
        return gradients.program is not None and same_results(
            gradients.program.run, each.run, primals
        )
    if not function.is_seeded:
        return True
    split = function.forward_backward(argnums, outnums)
    if split is None:  # the gradients draw too, after the function
        return gradients.program is None or same_first_draws(function.program, gradients.program)
    seed = function.settings.seed or 0
    halves = function.make_op(), gradients.make_op(), split
    return same_gradients(*halves, argnums, outnums, primals=function.primals, seed=seed)


def accepts_tangents(function: Any, tangents: Any, argnums: Positions, smooth: Positions) -> bool:
    """Whether these are the tangents that go with the gradients; raises if none can be."""
    if forward_strategy(function) is dual_jvp:  # a rule of the user, which may be another
        return True
    if not function.is_seeded:
        return _is_transpose(function, tangents, argnums, smooth)
    both, seed = (function.make_op(), tangents.make_op()), function.settings.seed or 0
    return same_tangents(*both, argnums, smooth, primals=function.primals, seed=seed)


def _is_transpose(function: Any, tangents: Any, argnums: Positions, smooth: Positions) -> bool:
    if tangents.strategy is not transformed_jvp and not _is_plain(function):
        _check_linear(function, tangents, smooth)
    gradients = function.vjp(argnums, smooth)
    moving = tuple(function.primals[i] for i in argnums)
    cotangents = tuple(function.outputs[i] for i in smooth)
    both = tangents.make_op().call, gradients.make_op().call
    if is_transpose(*both, function.primals, moving, cotangents):
        return True
    # A Function or an operator of the user's has the gradient that the user wants.
    changes = function.observer  # which torch.func.jvp passes over
    native = tangents.strategy is transformed_jvp and not changes.functions
    native = native and not changes.hooked and not changes.unrecorded
    if native and not (function.program and function.program.has_custom_ops):
        values = function.make_op().call
        if follows_tangents(values, both, function.primals, argnums, smooth):
            raise NoRuleError(
                f"torch has the gradient of {function.name} wrong: its tangents go with its "
                "values, and its gradient does not. Write another operator in its place, and "
                "report the one that is wrong to torch."
            )
    return False


def _is_plain(function: Any) -> bool:
    """Whether a function runs anew, and nothing of the user's has a part in its gradient."""
    observer = function.observer
    return function.program is None and not observer.functions and not observer.hooked


def _check_linear(function: Any, tangents: Any, smooth: Positions) -> None:
    """Raise unless there are tangents: NOTE [tangents from gradients]."""
    primals = (*tangents.primals, *(function.outputs[i] for i in smooth))
    count, name = len(tangents.primals), function.name
    try:
        program = trace(tangents.fun, primals, name=tangents.name, settings=function.settings)
    except NoValuesError as error:
        raise NoRuleError(
            f"torch has no jvp of {name}: a gradient in it looks at values, or the function does "
            "beside a hook or an autograd.Function, so that nothing tells whether the gradient is "
            "linear in the cotangent. Give an autograd.Function in it a jvp, or use reverse mode."
        ) from error
    if any(max(positions, default=0) >= count for positions in program.dependencies()):
        raise NoRuleError(
            f"{name} has no tangents: torch has no forward formula for it, and an "
            "autograd.Function or a custom operator in it has a gradient that is not linear "
            "in the cotangent, as where gradients are clipped. Give that a jvp, or use "
            "reverse mode."
        )
