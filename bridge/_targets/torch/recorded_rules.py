"""The rules of a recorded derivative as text, and the arguments and results that they lead to."""

import json
import operator
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from bridge._arrays.torch.upstream.compilers import concrete_sizes, size_hint
from bridge._core.function_protocols import StagedCall
from bridge._core.op import AppliedRule
from bridge._core.spec import batch_size
from bridge._targets.torch.staging import bind, find_function, symbolic_shapes

Tensors = Sequence[torch.Tensor]


_Kept = TypeVar("_Kept")
_signature = operator.attrgetter("shape", "dtype", "device", "layout")
_MOST_KEPT = 64  # of each function; each batch size is one more


def keep_with_function(
    function_name: str, text: tuple[str, ...], xs: Tensors, make: Callable[[], _Kept]
) -> _Kept:
    """Return what `make` makes of the texts and of the specs of `xs`, kept with the function.

    To look up the plan of a call takes 100 us, and compiled code asks on each call.
    """
    function = find_function(function_name)
    kept = function.kept_for_graphs
    key = (text, function.trace_context(), *[(x.__class__, *_signature(x)) for x in xs])
    try:
        result = kept.get(key)
    except TypeError:  # symbolic sizes have no hash
        return make()
    if result is None:
        result = make()
        for oldest in list(kept)[: 1 - _MOST_KEPT]:  # `list` copies in one step
            kept.pop(oldest, None)
        kept[key] = result
    return result


def restore_staged_call(function_name: str, arguments: str, xs: Tensors) -> StagedCall:
    """Return the call of a bridged function that a graph refers to by these strings."""

    def make() -> StagedCall:
        function, args, kwargs = bind(function_name, arguments, xs)
        return function.make_staged_call(args, kwargs).without_arrays()

    return keep_with_function(function_name, (arguments,), xs, make)


def parse_rules(steps: str, xs: Tensors) -> tuple[list[AppliedRule], list[Tensors]]:
    """Return the rules with the sizes of batches, and the arguments before each and after all.

    Arguments before a batch are tensors of the right shape without memory.
    """
    rules: list[AppliedRule] = []
    stages = [xs]
    for kind, *rule_args in reversed(json.loads(steps)):
        xs = stages[0]
        if kind == "vmap":
            (axes,) = rule_args
            rules.insert(0, ("vmap", tuple(axes), size_hint(batch_size(xs, axes))))
            stages.insert(0, [_batch_example(x, axis) for x, axis in zip(xs, axes, strict=True)])
        else:
            rules.insert(0, (kind, *map(tuple, rule_args)))
            stages.insert(0, xs[: len(xs) - len(rule_args[-1])])
    return rules, stages


def _batch_example(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Make a tensor of the shape of one example of `x`."""
    if axis is None:
        return x
    shape = [size for i, size in enumerate(x.shape) if i != axis % x.ndim]
    return x.new_empty(()).expand(shape)


def empty_results(
    name: str, arguments: str, rules: Sequence[AppliedRule], stages: Sequence[Tensors]
) -> list[torch.Tensor]:
    """Make tensors with the shapes and dtypes of the results."""
    if not rules:
        xs = stages[0]
        staged_call = restore_staged_call(name, arguments, xs)
        shapes, sizes = symbolic_shapes(staged_call, xs)
        device = xs[0].device if xs else torch.device("cpu")
        return [
            torch.empty(
                concrete_sizes(shape, sizes), dtype=getattr(torch, spec.dtype), device=device
            )
            for shape, spec in zip(shapes, staged_call.output_specs(), strict=True)
        ]
    kind, *rule_args = rules[-1]
    xs = stages[-1]
    if kind == "vjp":
        return [xs[i].new_empty(xs[i].shape) for i in rule_args[0]]
    inner = empty_results(name, arguments, rules[:-1], stages[:-1])
    if kind == "jvp":
        return [y for y in inner if y.is_floating_point() or y.is_complex()]
    return [y.new_empty((batch_size(xs, rule_args[0]), *y.shape)) for y in inner]
