"""The operators that stand in graphs for calls of bridged functions, and for their derivatives.

NOTE [the derivative of a recorded call]
It is another operator, `bridge::derived`, with the rules that lead to it as text, so that it has a
gradient, tangents and a batched form itself. The gradient of a gradient by its cotangents is the
map of tangents, so that callers who compute tangents in that way see that it is linear.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._arrays.torch import dtype_name
from bridge._arrays.torch.upstream.call_sites import in_forward_mode, is_dual
from bridge._core.errors import ArgumentError
from bridge._core.pytree import scatter
from bridge._targets.torch.recorded_rules import (
    Tensors,
    empty_results,
    parse_rules,
    restore_staged_call,
)
from bridge._targets.torch.staging import bind


@torch.library.custom_op("bridge::call", mutates_args=())
def _call(name: str, arguments: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    function, args, kwargs = bind(name, arguments, xs)
    with torch.no_grad():
        outputs = function.result_leaves(function(*args, **kwargs))
    dtypes, recorded = ",".join(dtype_name(y.dtype) for y in outputs), arguments.split("|")[1]
    if dtypes != recorded:
        raise ArgumentError(
            f"{name} returns {dtypes}, but returned {recorded} when the graph that calls it was "
            "recorded. Record or export it again."
        )
    return outputs


@torch.library.custom_op("bridge::derived", mutates_args=())
def _derived(
    name: str, arguments: str, steps: str, xs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    rules, stages = parse_rules(steps, xs)
    return list(restore_staged_call(name, arguments, stages[0]).execute(rules, xs))


@torch.library.custom_op("bridge::copy", mutates_args=())
def _copy(xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [x.clone() for x in xs]


@_copy.register_fake
def _(xs: Tensors) -> list[torch.Tensor]:
    return [torch.empty_like(x) for x in xs]


@_call.register_fake
def _(name: str, arguments: str, xs: Tensors) -> list[torch.Tensor]:
    return empty_results(name, arguments, (), [xs])


@_derived.register_fake
def _(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor]:
    return empty_results(name, arguments, *parse_rules(steps, xs))


def save_call(ctx: Any, arguments: Sequence[Any], steps: str, outputs: Tensors) -> None:
    """Save in `ctx` what the gradient of a call needs."""
    name, text, xs = arguments
    ctx.call = name, text, steps
    ctx.save_for_backward(*xs)
    ctx.set_materialize_grads(False)
    rules, stages = parse_rules(steps, xs)
    argnums = [i for i, x in enumerate(xs) if x.requires_grad or _has_tangent(x)]
    dependent = restore_staged_call(name, text, stages[0]).dependent_outputs(rules, argnums)
    ctx.mark_non_differentiable(*(y for i, y in enumerate(outputs) if i not in dependent))


def _has_tangent(x: torch.Tensor) -> bool:
    return in_forward_mode() and is_dual(x)


def compute_gradients(
    call: tuple[str, str, str],
    xs: Tensors,
    flags: Sequence[bool],
    cotangents: Sequence[torch.Tensor | None],
) -> list[torch.Tensor | None]:
    """Return the gradients of a call, by operators: NOTE [the derivative of a recorded call]."""
    name, text, steps = call
    rules = json.loads(steps)
    outnums = [i for i, c in enumerate(cotangents) if c is not None]
    cotangents = [c for c in cotangents if c is not None]
    gradients: list[torch.Tensor | None] = [None] * len(xs)
    linear_count = _linear_count(rules)
    count = len(xs) - linear_count
    argnums = [i for i, flag in enumerate(flags[:count]) if flag]
    if outnums and argnums:
        steps = json.dumps([*rules, ["vjp", argnums, outnums]])
        computed = torch.ops.bridge.derived(name, text, steps, [*xs, *cotangents])
        gradients = scatter(computed, argnums, gradients)
    if outnums and any(flags[count:]):
        by_position = _transpose(name, text, rules, xs[:count], outnums, cotangents)
        gradients[count:] = [by_position.get(i) for i in range(linear_count)]
    return gradients


def _linear_count(rules: Sequence[Any]) -> int:
    """Return in how many arguments, the last ones, a derivative is linear; 0 for a call itself."""
    derivatives = [rule for rule in rules if rule[0] != "vmap"]
    return len(derivatives[-1][-1]) if derivatives else 0


def _transpose(
    name: str,
    text: str,
    rules: list[Any],
    primals: Tensors,
    outnums: Sequence[int],
    cotangents: Tensors,
) -> dict[int, torch.Tensor]:
    """Return the gradients by the linear arguments of a derivative, by position among them.

    Those of a vjp are tangents, and those of a jvp are gradients.
    """
    last = max(i for i, rule in enumerate(rules) if rule[0] != "vmap")
    (kind, *rule_args), inner = rules[last], rules[:last]
    batches = [rule[1] for rule in rules[last + 1 :]]
    count = len(primals)
    primal_batches = (["vmap", axes[:count]] for axes in batches)
    sized_rules, stages = parse_rules(json.dumps([*inner, *primal_batches]), primals)
    staged_call = restore_staged_call(name, text, stages[0])
    differentiable = staged_call.differentiable_outputs(sized_rules[:last])
    if kind == "vjp":
        rule = ["jvp", [rule_args[0][i] for i in outnums]]
        results = [differentiable.index(i) for i in rule_args[1]]
    else:
        rule = ["vjp", rule_args[0], [differentiable[i] for i in outnums]]
        results = list(range(len(rule_args[0])))
    cotangent_axes = [0] * len(cotangents)
    batch_rules = (["vmap", [*axes[:count], *cotangent_axes]] for axes in batches)
    steps = json.dumps([*inner, rule, *batch_rules])
    computed = torch.ops.bridge.derived(name, text, steps, [*primals, *cotangents])
    return {
        i: _restore_batch_axes(computed[result], [axes[count + i] for axes in batches])
        for i, result in enumerate(results)
    }


def _restore_batch_axes(x: torch.Tensor, axes: Sequence[int | None]) -> torch.Tensor:
    """Move the batches of `x`, in front with the last one outermost, to `axes`; sum where None."""
    for depth, axis in zip(reversed(range(len(axes))), axes, strict=True):
        x = x.sum(depth) if axis is None else x.movedim(depth, depth + axis)
    return x


NO_RULES = "[]"
_call.register_autograd(
    lambda ctx, cotangents: (
        *(None, None),
        compute_gradients(ctx.call, ctx.saved_tensors, ctx.needs_input_grad[2], cotangents),
    ),
    setup_context=lambda ctx, inputs, output: save_call(ctx, inputs, NO_RULES, output),
)
_derived.register_autograd(
    lambda ctx, cotangents: (
        *(None, None, None),
        compute_gradients(ctx.call, ctx.saved_tensors, ctx.needs_input_grad[3], cotangents),
    ),
    setup_context=lambda ctx, inputs, output: save_call(
        ctx, (*inputs[:2], inputs[3]), inputs[2], output
    ),
)


def call_batched(
    name: str, arguments: str, steps: str, xs: Tensors, axes: Sequence[int | None]
) -> Any:
    """Return the results for a batch, and their axes."""
    batched_steps = json.dumps([*json.loads(steps), ["vmap", [*axes]]])
    outputs = torch.ops.bridge.derived(name, arguments, batched_steps, xs)
    return outputs, [0] * len(outputs)


@_call.register_vmap
def _(_: Any, axes: Any, name: str, arguments: str, xs: Tensors) -> Any:
    return call_batched(name, arguments, NO_RULES, xs, axes[2])


@_copy.register_vmap
def _(_: Any, axes: Any, xs: Tensors) -> Any:
    return torch.ops.bridge.copy(xs), [*axes[0]]


@_derived.register_vmap
def _(_: Any, axes: Any, name: str, arguments: str, steps: str, xs: Tensors) -> Any:
    return call_batched(name, arguments, steps, xs, axes[3])


def compute_tangents(
    name: str, arguments: str, steps: str, xs: Tensors, argnums: list[int], tangents: Tensors
) -> list[torch.Tensor | None]:
    """Return the tangents of the outputs, None for those of a dtype that has none."""
    rules, stages = parse_rules(steps, xs)
    staged_call = restore_staged_call(name, arguments, stages[0])
    outnums = staged_call.differentiable_outputs(rules)
    jvp_steps = json.dumps([*json.loads(steps), ["jvp", argnums]])
    computed = torch.ops.bridge.derived(name, arguments, jvp_steps, [*xs, *tangents])
    output_tangents: list[torch.Tensor | None] = [None] * staged_call.output_count(rules)
    return scatter(computed, outnums, output_tangents)


class DualCall(torch.autograd.Function):
    """A call with tangents that requires grad, at one level of autograd."""

    @staticmethod
    def forward(ctx: Any, name: str, text: str, steps: str, *xs: torch.Tensor) -> Any:
        primals = [forward_ad.unpack_dual(x).primal for x in xs]
        if steps == NO_RULES:
            outputs = torch.ops.bridge.call(name, text, primals)
        else:
            outputs = torch.ops.bridge.derived(name, text, steps, primals)
        save_call(ctx, (name, text, xs), steps, outputs)
        ctx.save_for_forward(*xs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        return (
            None,
            None,
            None,
            *compute_gradients(ctx.call, ctx.saved_tensors, ctx.needs_input_grad[3:], cotangents),
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> Any:
        by_argnum = {i: tangent for i, tangent in enumerate(tangents[3:]) if tangent is not None}
        name, text, steps = ctx.call
        xs = ctx.saved_tensors
        return tuple(compute_tangents(name, text, steps, xs, [*by_argnum], [*by_argnum.values()]))
