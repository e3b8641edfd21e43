"""Loops and branches in torch.

NOTE [loops in graphs]
A graph that is recorded cannot look at values, so it holds torch's own operators for loops and
branches. Where nothing is recorded, Python's are faster. A short loop is unrolled in both.
"""

from collections.abc import Sequence
from typing import Any

import torch

from bridge._arrays.torch import in_dispatch_mode
from bridge._arrays.torch.upstream.loops import cond_op, scan_op, while_loop_op
from bridge._core.graph import Graph
from bridge._core.spec import ArraySpec
from bridge._lowering.operations import Run
from bridge._lowering.torch.carriers import dtype_of

_MOST_UNROLLED = 8


def scan(
    body: Run,
    graph: Graph,
    constants: Sequence[Any],
    carry: Sequence[Any],
    rows: Sequence[Any],
    *,
    length: int,
    reverse: bool,
) -> list[Any]:
    """Return the last carry, and the rows that the rounds of a loop return."""
    like = (*constants, *carry, *rows)[0]
    specs = _output_specs(graph)
    if in_dispatch_mode() and length > _MOST_UNROLLED:
        # The operator takes the number of rounds from its rows, of which there may be none.
        counter = [] if rows else [torch.arange(length, device=like.device)]
        return _scan_in_graph(body, constants, carry, [*rows, *counter], len(rows), reverse=reverse)
    columns = [row.unbind(0) for row in rows]
    results: list[list[Any]] = [[None] * length for _ in specs[len(carry) :]]
    for k in reversed(range(length)) if reverse else range(length):
        outputs = body(like, [*constants, *carry, *(column[k] for column in columns)])
        carry = outputs[: len(carry)]
        for result, output in zip(results, outputs[len(carry) :], strict=True):
            result[k] = output
    return [
        *carry,
        *(_stack(x, s, like) for x, s in zip(results, specs[len(carry) :], strict=True)),
    ]


def _scan_in_graph(
    body: Run,
    constants: Sequence[Any],
    carry: Sequence[Any],
    rows: Sequence[Any],
    row_count: int,
    *,
    reverse: bool,
) -> list[Any]:
    """Record a loop, whose body takes the first `row_count` of its rows."""
    first, second = len(carry), len(carry) + len(rows)

    def compute_round(*args: Any) -> list[Any]:
        state, row, shared = args[:first], args[first : first + row_count], args[second:]
        return [x.clone() for x in body(args[0], [*shared, *state, *row])]

    ordered = [row.flip(0) if reverse else row for row in rows]
    results = scan_op(compute_round, [x.clone() for x in carry], ordered, tuple(constants))
    return [*results[:first], *(y.flip(0) if reverse else y for y in results[first:])]


def _output_specs(graph: Graph) -> list[ArraySpec]:
    """Return the specs of the outputs of a body."""
    specs: list[Any] = [*graph.inputs]
    specs += [ArraySpec(tuple(x.shape), x.dtype.name) for x in graph.constants]
    specs += [operation.output_specs for operation in graph.operations]
    refs = [ref for ref in graph.outputs if ref is not None]
    found = [specs[ref.value_index] for ref in refs]
    return [
        spec if ref.output_index is None else spec[ref.output_index]
        for ref, spec in zip(refs, found, strict=True)
    ]


def _stack(rows: Sequence[Any], spec: ArraySpec, like: torch.Tensor) -> torch.Tensor:
    if rows:
        return torch.stack(list(rows))
    return torch.empty((0, *spec.shape), dtype=dtype_of(spec.dtype), device=like.device)


def loop(
    condition: Run,
    body: Run,
    condition_constants: Sequence[Any],
    body_constants: Sequence[Any],
    carry: Sequence[Any],
) -> list[Any]:
    """Return the carry after a loop that ends when its condition is false."""
    first, count = len(condition_constants), len(carry)
    like = (*carry, *condition_constants, *body_constants)[0]
    if like.device.type == "meta":  # without values: the carry keeps its specs
        return [torch.empty_like(x) for x in carry]
    if not in_dispatch_mode():
        while condition(like, [*condition_constants, *carry])[0].item():
            carry = body(like, [*body_constants, *carry])
        return list(carry)

    def goes_on(*args: Any) -> Any:
        state, shared = args[:count], args[count:]
        return condition(args[0], [*shared[:first], *state])[0].clone()

    def round_(*args: Any) -> tuple[Any, ...]:
        state, shared = args[:count], args[count:]
        return tuple(x.clone() for x in body(args[0], [*shared[first:], *state]))

    shared = (*condition_constants, *body_constants)
    return list(while_loop_op(goes_on, round_, tuple(x.clone() for x in carry), shared))


def branch(
    index: torch.Tensor, branches: Sequence[Run], operands: Sequence[Any], specs: Sequence[Any]
) -> list[Any]:
    """Return the results of one of the branches."""
    if index.device.type == "meta":
        return [torch.empty(s.shape, dtype=dtype_of(s.dtype), device="meta") for s in specs]
    if not in_dispatch_mode():
        chosen = min(max(int(index.item()), 0), len(branches) - 1)
        return branches[chosen](index, operands)
    if len(branches) == 1:
        return branches[0](index, operands)

    def first(i: Any, *xs: Any) -> list[Any]:
        return [x.clone() for x in branches[0](i, xs)]

    def others(i: Any, *xs: Any) -> list[Any]:
        return [x.clone() for x in branch(i - 1, branches[1:], xs, specs)]

    index = index.to(torch.int32)
    return list(cond_op(index <= 0, first, others, (index, *operands)))
