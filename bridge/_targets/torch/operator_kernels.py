"""The kernels in front of the operators: tangents, and forwards that save for their backwards."""

import json
from collections.abc import Sequence

import torch
from torch.autograd import forward_ad

from bridge._targets.torch.operator_halves import Half, describe_saved
from bridge._targets.torch.operator_tangents import register_tangents
from bridge._targets.torch.operators import NO_RULES, DualCall, compute_tangents
from bridge._targets.torch.recorded_rules import Tensors, parse_rules, restore_staged_call


def _forward_tangents(
    name: str, arguments: str, steps: str, xs: Tensors, argnums: list[int], tangents: Tensors
) -> list[torch.Tensor | None]:
    half = Half(name, arguments, steps, xs)
    inner = json.dumps(half.inner)
    outputs = compute_tangents(name, arguments, inner, xs, argnums, tangents)
    return [*outputs, *([None] * len(half.halves().residual_specs()))]


def _dual_forward(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor]:
    half = Half(name, arguments, steps, xs)
    outputs = DualCall.apply(name, arguments, json.dumps(half.inner), *xs)
    with torch.no_grad():
        primals = [forward_ad.unpack_dual(x).primal for x in xs]
        results = torch.ops.bridge.forward(name, arguments, steps, primals)
    return [*outputs, *results[len(outputs) :]]


def _backward_tangents(
    name: str, arguments: str, steps: str, xs: Tensors, argnums: list[int], tangents: Tensors
) -> list[torch.Tensor | None]:
    half = Half(name, arguments, steps, xs)
    places = half.without_saved(range(len(xs)))
    pairs = [(places.index(i), t) for i, t in zip(argnums, tangents, strict=True) if i in places]
    if not pairs:
        return [None] * len(half.wanted)
    return compute_tangents(
        *(name, arguments, half.as_vjp(), half.without_saved(xs)),
        [i for i, _ in pairs],
        [t for _, t in pairs],
    )


def _dual_backward(name: str, arguments: str, steps: str, xs: Tensors) -> Sequence[torch.Tensor]:
    half = Half(name, arguments, steps, xs)
    return DualCall.apply(name, arguments, half.as_vjp(), *half.without_saved(xs))


def _call_saving(name: str, arguments: str, steps: str, xs: Tensors) -> list[torch.Tensor] | None:
    """Call a function by its forward half: NOTE [residuals in a graph]; None without one."""
    if any(isinstance(size, torch.SymInt) for x in xs for size in x.shape):
        return None  # what is saved has sizes that do not follow from symbolic ones
    rules, stages = parse_rules(steps, xs)
    if any(kind != "vmap" for kind, *_ in rules):  # a derivative is differentiated as a whole
        return None
    staged_call = restore_staged_call(name, arguments, stages[0])
    argnums = [i for i, x in enumerate(xs) if x.requires_grad]
    differentiable = staged_call.differentiable_outputs(rules)
    outnums = [i for i in staged_call.dependent_outputs(rules, argnums) if i in differentiable]
    halves = staged_call.halves(rules, argnums, outnums)
    if halves is None:
        return None
    step = ["forward", argnums, outnums, describe_saved(halves)]
    steps = json.dumps([*json.loads(steps), step])
    return torch.ops.bridge.forward(name, arguments, steps, xs)[: halves.output_count]


register_tangents(
    torch.ops.bridge.call.default,
    lambda name, arguments, *others: compute_tangents(name, arguments, NO_RULES, *others),
    lambda name, arguments, xs: DualCall.apply(name, arguments, NO_RULES, *xs),
    lambda name, arguments, xs: _call_saving(name, arguments, NO_RULES, xs),
)
register_tangents(
    torch.ops.bridge.derived.default,
    compute_tangents,
    lambda name, arguments, steps, xs: DualCall.apply(name, arguments, steps, *xs),
    _call_saving,
)
register_tangents(torch.ops.bridge.forward.default, _forward_tangents, _dual_forward)
register_tangents(torch.ops.bridge.backward.default, _backward_tangents, _dual_backward)
