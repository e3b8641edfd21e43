"""The operators for the two halves of a derivative, between which a graph carries what is saved.

NOTE [residuals in a graph]
Where a call requires gradients, a graph that contains its backward pass gets `bridge::forward`,
which returns the outputs and then the residuals, and `bridge::backward`, which takes these. So the
compiler decides what is kept, as it does for operators of torch. Residuals are functions of the
primals: they have no gradients of their own, and whoever transforms a half takes the derivative of
the whole call instead, for which both halves take the primals.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch

from bridge._core.errors import ArgumentError
from bridge._core.function_protocols import StagedCall, StagedHalves
from bridge._core.op import AppliedRule
from bridge._core.spec import batch_size
from bridge._targets.torch.operators import (
    call_batched,
    compute_gradients,
    save_call,
)
from bridge._targets.torch.recorded_rules import (
    Tensors,
    empty_results,
    keep_with_function,
    parse_rules,
    restore_staged_call,
)


@torch.library.custom_op("bridge::forward", mutates_args=())
def _forward(
    name: str, arguments: str, steps: str, xs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    half = Half(name, arguments, steps, xs)
    return list(half.halves().execute_forward(xs))


@torch.library.custom_op("bridge::backward", mutates_args=())
def _backward(
    name: str, arguments: str, steps: str, xs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    half = Half(name, arguments, steps, xs)
    primals, saved, cotangents = half.split(xs)
    return list(half.halves().execute_backward(half.wanted, primals, saved, cotangents))


@functools.lru_cache(maxsize=256)
def _parse(steps: str) -> Any:
    return json.loads(steps)


class Half:
    """A half of a derivative as text, with its arguments.

    The text has the rules that lead to the function, then the positions of the arguments that
    require gradients and of the outputs that have cotangents, what is saved, and, for a backward,
    the positions of the gradients that it computes.
    """

    def __init__(self, name: str, arguments: str, steps: str, xs: Tensors) -> None:
        *self.inner, (_, self.argnums, self.outnums, self.saved, *wanted) = _parse(steps)
        self.wanted: list[int] = wanted[0] if wanted else []
        self.name, self.arguments, self.steps, self.xs = name, arguments, steps, xs
        self.count = len(xs) - (len(self.saved) + len(self.outnums) if wanted else 0)

    def split(self, xs: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Return the primals, what is saved, and the cotangents among the arguments."""
        start, stop = self.count, self.count + len(self.saved)
        return xs[:start], xs[start:stop], xs[stop:]

    def staged_call(self) -> tuple[StagedCall, list[AppliedRule], list[Tensors]]:
        """Return the call, the rules that lead to the function, and the arguments of each."""
        rules, stages = parse_rules(json.dumps(self.inner), self.xs[: self.count])
        return restore_staged_call(self.name, self.arguments, stages[0]), rules, stages

    def halves(self) -> StagedHalves:
        """Return both halves; raise if the function saves something else than recorded."""
        text = (self.arguments, self.steps)
        return keep_with_function(self.name, text, self.xs[: self.count], self._make_halves)

    def _make_halves(self) -> StagedHalves:
        staged_call, rules, _ = self.staged_call()
        halves = staged_call.halves(rules, self.argnums, self.outnums)
        saves = halves and describe_saved(halves)
        if halves is None or saves != self.saved:
            raise ArgumentError(
                f"the derivative of {self.name} saves {saves}, but saved {self.saved} when the "
                "graph that calls it was recorded. Record or export it again."
            )
        return halves

    def as_vjp(self) -> str:
        """Return the rules of the gradients that a backward computes, from primals alone."""
        return json.dumps([*self.inner, ["vjp", self.wanted, self.outnums]])

    def without_saved(self, xs: Sequence[Any]) -> list[Any]:
        """Return the primals and cotangents among the arguments of a backward."""
        primals, _, cotangents = self.split(xs)
        return [*primals, *cotangents]

    def with_saved(self, values: Sequence[Any]) -> list[Any]:
        """Return values for the arguments of a backward: None for what is saved."""
        saved: list[Any] = [None] * len(self.saved)
        return [*values[: self.count], *saved, *values[self.count :]]


def describe_saved(halves: StagedHalves) -> list[str]:
    """Return what the halves pass on as text, which a later version of the function may not."""
    return [str(spec) for spec in halves.saved_specs()]


@_forward.register_fake
def _(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor]:
    half = Half(name, arguments, steps, xs)
    _, rules, stages = half.staged_call()
    outputs = empty_results(name, arguments, rules, stages)
    residuals = half.halves().residual_specs()
    return [
        *outputs,
        *(
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=_device(xs))
            for spec in residuals
        ),
    ]


def _device(xs: Tensors) -> torch.device:
    return xs[0].device if xs else torch.device("cpu")


@_backward.register_fake
def _(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor]:
    return [xs[i].new_empty(xs[i].shape) for i in Half(name, arguments, steps, xs).wanted]


def _save_forward(ctx: Any, inputs: Sequence[Any], output: Tensors) -> None:
    name, text, steps, xs = inputs
    half = Half(name, text, steps, xs)
    halves = half.halves()
    count = halves.output_count
    ctx.call = name, text, json.dumps(half.inner)
    ctx.half = half.argnums, half.outnums, half.saved, count, len(xs)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*xs, *halves.read_saved(output))
    # Of a graph that is run again, other arguments may require gradients than were recorded.
    staged_call, rules, _ = half.staged_call()
    argnums = [i for i, x in enumerate(xs) if x.requires_grad]
    dependent = staged_call.dependent_outputs(rules, argnums)
    ctx.mark_non_differentiable(*(y for i, y in enumerate(output) if i not in dependent))


def _forward_gradients(ctx: Any, cotangents: Sequence[torch.Tensor | None]) -> Any:
    """Return the gradients of a forward: from what is saved, unless they may be differentiated."""
    argnums, outnums, saved, count, arity = ctx.half
    flags = ctx.needs_input_grad[3]
    xs = ctx.saved_tensors
    cotangents = cotangents[:count]
    used = [i for i, c in enumerate(cotangents) if c is not None]
    wanted = [i for i, flag in enumerate(flags) if flag]
    # In a backward pass, gradients are enabled exactly under create_graph=True.
    if torch.is_grad_enabled() or used != outnums or not {*wanted} <= {*argnums}:
        gradients = compute_gradients(ctx.call, xs[:arity], flags, cotangents)
        return None, None, None, gradients
    name, text, steps = ctx.call
    steps = json.dumps([*json.loads(steps), ["backward", argnums, outnums, saved, wanted]])
    dense = [c for c in cotangents if c is not None]
    computed = torch.ops.bridge.backward(name, text, steps, [*xs, *dense])
    by_argnum = dict(zip(wanted, computed, strict=True))
    return None, None, None, [by_argnum.get(i) for i in range(arity)]


_forward.register_autograd(_forward_gradients, setup_context=_save_forward)


def _save_backward(ctx: Any, inputs: Sequence[Any], output: Tensors) -> None:
    name, text, steps, xs = inputs
    ctx.half = half = Half(name, text, steps, xs)
    save_call(ctx, (name, text, half.without_saved(xs)), half.as_vjp(), output)


def _backward_gradients(ctx: Any, cotangents: Sequence[torch.Tensor | None]) -> Any:
    half: Half = ctx.half
    flags = half.without_saved(ctx.needs_input_grad[3])
    gradients = compute_gradients(ctx.call, ctx.saved_tensors, flags, cotangents)
    return None, None, None, half.with_saved(gradients)


_backward.register_autograd(_backward_gradients, setup_context=_save_backward)


@_forward.register_vmap
def _(info: Any, axes: Any, name: str, arguments: str, steps: str, xs: Tensors) -> Any:
    """Call it for each example: what a batch of them saves would have another layout."""
    size = batch_size(xs, axes[3])
    examples = [
        [x if axis is None else x.select(axis, i) for x, axis in zip(xs, axes[3], strict=True)]
        for i in range(size)
    ]
    results = [torch.ops.bridge.forward(name, arguments, steps, example) for example in examples]
    outputs = [torch.stack(ys) for ys in zip(*results, strict=True)]
    return outputs, [0] * len(outputs)


@_backward.register_vmap
def _(_: Any, axes: Any, name: str, arguments: str, steps: str, xs: Tensors) -> Any:
    half = Half(name, arguments, steps, xs)
    arrays, array_axes = half.without_saved(xs), half.without_saved(axes[3])
    if all(axis is None for axis in array_axes):  # only what is saved has examples
        raise ArgumentError(f"the derivative of {name} was batched without its arguments.")
    return call_batched(name, arguments, half.as_vjp(), arrays, array_axes)
