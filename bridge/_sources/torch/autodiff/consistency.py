"""Checks that derivatives of a function, taken in different ways, agree."""

from typing import Any

from bridge._arrays.torch.upstream.errors import is_no_values_error, is_setup_context_error
from bridge._core.errors import NoRuleError, NoValuesError
from bridge._core.op import Positions, Specs
from bridge._sources.torch.autodiff.strategies import recorded_tangent_strategy
from bridge._sources.torch.autodiff.transforms import dual_jvp, transformed_jvp
from bridge._sources.torch.autodiff.transposes import DISAGREE, gradients_are_wrong, is_transpose
from bridge._sources.torch.batching.rng_consistency import (
    RNG_MISMATCH,
    same_first_draws,
    same_gradients,
    same_results,
)
from bridge._sources.torch.capture.trace import trace


def no_rule_error(rule: str, name: str, error: Exception | None) -> NoRuleError:
    """Make the error for a function that torch cannot transform by `rule`."""
    if rule == "jvp" and error and is_no_values_error(error):
        error = NoRuleError(
            "values leave torch, as by NumPy, where forward mode cannot follow. Wrap that part in "
            "an autograd.Function with a jvp, or use reverse mode."
        )
    if rule == "jvp" and error and is_setup_context_error(error):
        error = NoRuleError(
            "forward mode supports an autograd.Function that looks at values only if it has a jvp "
            "or a setup_context. Give it one, or use reverse mode."
        )
    return NoRuleError(f"torch has no {rule} of {name}: {error}")


def disagreement_error(function: Any) -> NoRuleError:
    """Make the error for derivatives of `function` that disagree."""
    is_random = function.has_seeded_program and not _has_custom_gradients(function)
    return NoRuleError(RNG_MISMATCH if is_random else DISAGREE)


def _has_custom_gradients(function: Any) -> bool:
    """Return True if a function calls an `autograd.Function` or an operator of `torch.library`."""
    has_custom_ops = function.program is not None and function.program.has_custom_ops
    return bool(function.observer.functions) or has_custom_ops


def accepts_gradients(
    function: Any, gradients: Any, argnums: Positions, outnums: Positions, primals: Specs
) -> bool:
    """Return True if gradients agree with the function in random numbers and in branches."""
    if function.by_example and function.observer.asked:
        each = function.by_example.vjp(argnums, outnums).program
        return gradients.program is not None and same_results(
            gradients.program.run, each.run, primals
        )
    if not function.has_seeded_program:
        return True
    pair = function.forward_backward(argnums, outnums)
    if pair is None:  # the gradients draw random numbers too, after those of the function
        return gradients.program is None or same_first_draws(function.program, gradients.program)
    seed_argnum = function.settings.seed_argnum or 0
    ops = function.make_op(), gradients.make_op()
    return same_gradients(
        *ops, pair, argnums, outnums, primals=function.primals, seed_argnum=seed_argnum
    )


def accepts_tangents(function: Any, tangents: Any, argnums: Positions, outnums: Positions) -> bool:
    """Return True if tangents agree with the gradients; raise if no tangents can."""
    if recorded_tangent_strategy(function) is dual_jvp:  # a user's rule for tangents may differ
        return True
    return _is_transpose(function, tangents, argnums, outnums)


def _is_transpose(function: Any, tangents: Any, argnums: Positions, outnums: Positions) -> bool:
    """Return True if the jvp is the transpose of the vjp; raise if torch has the vjp wrong."""
    if tangents.strategy is not transformed_jvp and not _is_eager_without_custom_gradients(
        function
    ):
        _check_linear_gradients(function, tangents, outnums)
    gradients = function.vjp(argnums, outnums)
    tangent_specs = tuple(function.primals[i] for i in argnums)
    cotangent_specs = tuple(function.outputs[i] for i in outnums)
    maps = tangents.make_op().call, gradients.make_op().call
    if is_transpose(
        *maps,
        function.primals,
        tangent_specs=tangent_specs,
        cotangent_specs=cotangent_specs,
        seed_argnum=function.settings.seed_argnum if function.has_seeded_program else None,
    ):
        return True
    # torch.func.jvp ignores what the user changes in gradients, and that is no fault of torch.
    changes = function.observer
    native = tangents.strategy is transformed_jvp and not _has_custom_gradients(function)
    if native and not (changes.hooked or changes.unrecorded or function.has_seeded_program):
        values = function.make_op().call
        if gradients_are_wrong(values, maps, function.primals, argnums, outnums):
            raise NoRuleError(
                f"torch has the gradient of {function.name} wrong: its tangents agree with its "
                "values, but its gradient does not. Replace the operator that is wrong by others, "
                "and report it to torch."
            )
    return False


def _is_eager_without_custom_gradients(function: Any) -> bool:
    """Return True if a function is rerun, without Functions or hooks that change its gradient."""
    observer = function.observer
    return function.program is None and not observer.functions and not observer.hooked


def _check_linear_gradients(function: Any, tangents: Any, outnums: Positions) -> None:
    """Raise unless gradients are linear in the cotangents: NOTE [tangents from gradients]."""
    primals = (*tangents.primals, *(function.outputs[i] for i in outnums))
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
