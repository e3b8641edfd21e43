"""The operators that stand in graphs for calls of bridged functions, and for their derivatives.

NOTE [the derivative of a recorded call]
It is one operator more, `bridge::derived`, with the rules that lead to it as text, so that it has
a gradient, tangents and a batched form itself. The gradient of a gradient by its cotangents is the
map of tangents, so that who takes tangents in that way sees that it is linear.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._arrays.torch import dtype_name
from bridge._core.errors import ArgumentError
from bridge._core.op import AppliedRule
from bridge._core.protocols import StagedCall
from bridge._core.pytree import replace_at
from bridge._targets.torch.internals import (
    concrete_sizes,
    in_forward_mode,
    is_dual,
    size_hint,
)
from bridge._targets.torch.operator_tangents import register_tangents
from bridge._targets.torch.staging import bind, symbolic_shapes

Tensors = Sequence[torch.Tensor]


@torch.library.custom_op("bridge::call", mutates_args=())
def _call(name: str, arguments: str, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    function, args, kwargs = bind(name, arguments, xs)
    with torch.no_grad():
        outputs = function.flatten((function(*args, **kwargs),), {})[0]
    found, recorded = ",".join(dtype_name(y.dtype) for y in outputs), arguments.split("|")[1]
    if found != recorded:
        raise ArgumentError(
            f"{name} returns {found}, but returned {recorded} when the graph that calls it was "
            "recorded. Record or export it again."
        )
    return outputs


@torch.library.custom_op("bridge::derived", mutates_args=())
def _derived(
    name: str, arguments: str, steps: str, xs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    rules, rows = _rules_with_sizes(steps, xs)
    return list(_recorded(name, arguments, rows[0]).execute(rules, xs))


@_call.register_fake
def _(name: str, arguments: str, xs: Tensors) -> list[torch.Tensor]:
    return _like(name, arguments, (), [xs])


@_derived.register_fake
def _(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor]:
    return _like(name, arguments, *_rules_with_sizes(steps, xs))


def _recorded(name: str, arguments: str, xs: Tensors) -> StagedCall:
    function, args, kwargs = bind(name, arguments, xs)
    return function.record_call(args, kwargs)


def _rules_with_sizes(steps: str, xs: Tensors) -> tuple[list[AppliedRule], list[Tensors]]:
    """The rules, with the sizes of batches, and the arguments before each and after all.

    Before a rule, they are tensors of that shape without memory.
    """
    rules: list[AppliedRule] = []
    rows = [xs]
    for kind, *about in reversed(json.loads(steps)):
        xs = rows[0]
        if kind == "vmap":
            (axes,) = about
            rules.insert(0, ("vmap", tuple(axes), size_hint(_size(xs, axes))))
            rows.insert(0, [_batch_example(x, axis) for x, axis in zip(xs, axes, strict=True)])
        else:
            rules.insert(0, (kind, *map(tuple, about)))
            rows.insert(0, xs[: len(xs) - len(about[-1])])
    return rules, rows


def _size(xs: Tensors, axes: Sequence[int | None]) -> Any:
    """How many examples there are."""
    return next(x.shape[axis] for x, axis in zip(xs, axes, strict=True) if axis is not None)


def _batch_example(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A tensor like one example of `x`."""
    if axis is None:
        return x
    shape = [size for i, size in enumerate(x.shape) if i != axis % x.ndim]
    return x.new_empty(()).expand(shape)


def _like(
    name: str, arguments: str, rules: Sequence[AppliedRule], rows: Sequence[Tensors]
) -> list[torch.Tensor]:
    """Tensors like the results."""
    if not rules:
        recorded, xs = _recorded(name, arguments, rows[0]), rows[0]
        known, values = symbolic_shapes(recorded, xs)
        device = xs[0].device if xs else torch.device("cpu")
        return [
            torch.empty(
                concrete_sizes(shape, values), dtype=getattr(torch, spec.dtype), device=device
            )
            for shape, spec in zip(known, recorded.output_specs(), strict=True)
        ]
    kind, *about = rules[-1]
    if kind == "vjp":
        return [rows[-1][i].new_empty(rows[-1][i].shape) for i in about[0]]
    inner = _like(name, arguments, rules[:-1], rows[:-1])
    if kind == "jvp":
        return [y for y in inner if y.is_floating_point() or y.is_complex()]
    return [y.new_empty((_size(rows[-1], about[0]), *y.shape)) for y in inner]


def _differentiated(ctx: Any, arguments: Sequence[Any], steps: str, outputs: Tensors) -> None:
    """Note what the gradient of a call is taken by."""
    name, text, xs = arguments
    ctx.call = name, text, steps
    ctx.save_for_backward(*xs)
    ctx.set_materialize_grads(False)
    rules, rows = _rules_with_sizes(steps, xs)
    wanted = [i for i, x in enumerate(xs) if x.requires_grad or _has_tangent(x)]
    reached = _recorded(name, text, rows[0]).dependent_outputs(rules, wanted)
    ctx.mark_non_differentiable(*(y for i, y in enumerate(outputs) if i not in reached))


def _has_tangent(x: torch.Tensor) -> bool:
    return in_forward_mode() and is_dual(x)


def _gradients(
    ctx: Any, flags: Sequence[bool], cotangents: Sequence[torch.Tensor | None]
) -> list[torch.Tensor | None]:
    """The gradients of a call, each an operator again: NOTE [the derivative of a recorded call]."""
    (name, text, steps), xs = ctx.call, ctx.saved_tensors
    rules = json.loads(steps)
    given = [i for i, c in enumerate(cotangents) if c is not None]
    row = [c for c in cotangents if c is not None]
    gradients: list[torch.Tensor | None] = [None] * len(xs)
    linear = _linear(rules)
    count = len(xs) - linear
    moving = [i for i, needed in enumerate(flags[:count]) if needed]
    if given and moving:
        further = json.dumps([*rules, ["vjp", moving, given]])
        found = torch.ops.bridge.derived(name, text, further, [*xs, *row])
        gradients = replace_at(found, moving, gradients)
    if given and any(flags[count:]):
        found = _transposed(name, text, rules, xs[:count], given, row)
        gradients[count:] = [found.get(i) for i in range(linear)]
    return gradients


def _linear(rules: Sequence[Any]) -> int:
    """How many arguments, the last ones, the call is linear in by how it was derived."""
    derivatives = [rule for rule in rules if rule[0] != "vmap"]
    return len(derivatives[-1][-1]) if derivatives else 0


def _transposed(
    name: str, text: str, rules: list[Any], primals: Tensors, outnums: Sequence[int], row: Tensors
) -> dict[int, torch.Tensor]:
    """The gradients by those arguments: tangents, where a gradient is differentiated, or back."""
    at = max(i for i, rule in enumerate(rules) if rule[0] != "vmap")
    (kind, *about), inner, batches = rules[at], rules[:at], [rule[1] for rule in rules[at + 1 :]]
    count = len(primals)
    sized, rows = _rules_with_sizes(
        json.dumps([*inner, *(["vmap", axes[:count]] for axes in batches)]), primals
    )
    smooth = _recorded(name, text, rows[0]).differentiable_outputs(sized[:at])
    if kind == "vjp":
        rule, results = ["jvp", [about[0][i] for i in outnums]], [smooth.index(i) for i in about[1]]
    else:
        rule, results = ["vjp", about[0], [smooth[i] for i in outnums]], list(range(len(about[0])))
    onto = [["vmap", [*axes[:count], *[0] * len(row)]] for axes in batches]
    further = json.dumps([*inner, rule, *onto])
    found = torch.ops.bridge.derived(name, text, further, [*primals, *row])
    return {
        i: _moved_to_front(found[result], [axes[count + i] for axes in batches])
        for i, result in enumerate(results)
    }


def _moved_to_front(x: torch.Tensor, axes: Sequence[int | None]) -> torch.Tensor:
    """`x`, whose batches come first, the last one outermost, with them at these axes."""
    for depth, axis in zip(reversed(range(len(axes))), axes, strict=True):
        x = x.sum(depth) if axis is None else x.movedim(depth, depth + axis)
    return x


_PLAIN = "[]"
_call.register_autograd(
    lambda ctx, cotangents: (None, None, _gradients(ctx, ctx.needs_input_grad[2], cotangents)),
    setup_context=lambda ctx, inputs, output: _differentiated(ctx, inputs, _PLAIN, output),
)
_derived.register_autograd(
    lambda ctx, cotangents: (
        *(None, None, None),
        _gradients(ctx, ctx.needs_input_grad[3], cotangents),
    ),
    setup_context=lambda ctx, inputs, output: _differentiated(
        ctx, (*inputs[:2], inputs[3]), inputs[2], output
    ),
)


def _batched(name: str, arguments: str, steps: str, xs: Tensors, axes: Sequence[int | None]) -> Any:
    further = json.dumps([*json.loads(steps), ["vmap", [*axes]]])
    outputs = torch.ops.bridge.derived(name, arguments, further, xs)
    return outputs, [0] * len(outputs)


@_call.register_vmap
def _(_: Any, axes: Any, name: str, arguments: str, xs: Tensors) -> Any:
    return _batched(name, arguments, _PLAIN, xs, axes[2])


@_derived.register_vmap
def _(_: Any, axes: Any, name: str, arguments: str, steps: str, xs: Tensors) -> Any:
    return _batched(name, arguments, steps, xs, axes[3])


def _moved(
    name: str, arguments: str, steps: str, xs: Tensors, argnums: list[int], tangents: Tensors
) -> list[torch.Tensor | None]:
    """The tangents of the outputs, `None` for those of a dtype that has none."""
    rules, rows = _rules_with_sizes(steps, xs)
    recorded = _recorded(name, arguments, rows[0])
    smooth = recorded.differentiable_outputs(rules)
    further = json.dumps([*json.loads(steps), ["jvp", argnums]])
    found = torch.ops.bridge.derived(name, arguments, further, [*xs, *tangents])
    outputs: list[torch.Tensor | None] = [None] * recorded.output_count(rules)
    return replace_at(found, smooth, outputs)


class _Dual(torch.autograd.Function):
    """A call with tangents that requires grad, at one level of autograd."""

    @staticmethod
    def forward(ctx: Any, name: str, text: str, steps: str, *xs: torch.Tensor) -> Any:
        primals = [forward_ad.unpack_dual(x).primal for x in xs]
        if steps == _PLAIN:
            outputs = torch.ops.bridge.call(name, text, primals)
        else:
            outputs = torch.ops.bridge.derived(name, text, steps, primals)
        _differentiated(ctx, (name, text, xs), steps, outputs)
        ctx.save_for_forward(*xs)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> Any:
        return None, None, None, *_gradients(ctx, ctx.needs_input_grad[3:], cotangents)

    @staticmethod
    def jvp(ctx: Any, *given: torch.Tensor | None) -> Any:
        moving = {i: tangent for i, tangent in enumerate(given[3:]) if tangent is not None}
        name, text, steps = ctx.call
        xs = ctx.saved_tensors
        return tuple(_moved(name, text, steps, xs, [*moving], [*moving.values()]))


register_tangents(
    torch.ops.bridge.call.default,
    lambda name, arguments, *rest: _moved(name, arguments, _PLAIN, *rest),
    lambda name, arguments, xs: _Dual.apply(name, arguments, _PLAIN, *xs),
)
register_tangents(
    torch.ops.bridge.derived.default,
    _moved,
    lambda name, arguments, steps, xs: _Dual.apply(name, arguments, steps, *xs),
)
