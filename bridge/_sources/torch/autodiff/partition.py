"""A joint graph in two: what the forward pass computes and keeps, what is left for the backward.

NOTE [what is kept]
The forward pass is what the outputs are made of. Of its values the backward pass is handed those
it uses; what it computes besides from them it computes itself. A view is made again from what it
views, so that an argument or an output is kept as such, unless it views a small part of something
large. A kept value crosses row by row: where torch has its axes in another order, it is handed
over with the axes in the order of memory, and they are put back.
"""

import dataclasses
import operator
from collections.abc import Iterable, Sequence, Set
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bridge._core.op import Positions
from bridge._core.spec import ArraySpec
from bridge._sources.torch.capture.graph import (
    copy_aliased_outputs,
    has_side_effect,
    is_check,
    is_random,
    results,
)
from bridge._sources.torch.internals import fake_tensors, returns_view

_aten: Any = torch.ops.aten


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardBackwardGraphs:
    """A joint graph in two.

    Attributes:
        forward: From the primals to the outputs, then the residuals.
        backward: From the kept primals, kept outputs, residuals and cotangents to the gradients
            of all primals, `None` for those that have none.
        kept_primals: Positions of the primals that the backward half takes.
        kept_outputs: Positions of the outputs that it takes.
        residuals: How many results of the forward half are no outputs.
    """

    forward: GraphModule
    backward: GraphModule
    kept_primals: Positions
    kept_outputs: Positions
    residuals: int


def partition(module: GraphModule, primals: int, flows: Sequence[bool]) -> ForwardBackwardGraphs:
    """The halves of a joint graph; `flows` says which given outputs have a cotangent in it."""
    graph = module.graph
    inputs: list[Node] = list(graph.find_nodes(op="placeholder"))
    arguments, cotangents = inputs[:primals], inputs[primals:]
    values, gradients = results(graph)[:-primals], results(graph)[-primals:]
    early, late = _side_effects(graph, cotangents)
    first = _ancestors([*arguments, *values, *early])
    first |= {x for x in graph.nodes if x.target is operator.getitem and x.args[0] in first}
    kept = _saved_values(gradients, first)

    kept_primals = tuple(i for i, x in enumerate(arguments) if x in kept)
    fresh = {x: i for i, x in reversed([*enumerate(values)]) if x in kept and x not in arguments}
    kept_outputs = tuple(sorted(fresh.values()))
    known = {*arguments, *fresh}
    others = [x for x in graph.nodes if x in kept and x not in known and x.op != "get_attr"]

    forward = _GraphCopy(module, arguments, [*values, *others, *early])
    forward.end([*(forward.made[x] for x in values), *(_by_memory(forward, x) for x in others)])
    taken = [*(arguments[i] for i in kept_primals), *(values[i] for i in kept_outputs), *others]
    flowing = iter(cotangents)
    given = [next(flowing) if flow else None for flow in flows]
    backward = _GraphCopy(module, [*taken, *given], [*gradients, *late])
    backward.end([None if x is None else backward.made[x] for x in gradients])
    return ForwardBackwardGraphs(
        forward=forward.module,
        backward=backward.module,
        kept_primals=kept_primals,
        kept_outputs=kept_outputs,
        residuals=len(others),
    )


def select_gradients(
    backward: GraphModule, argnums: Positions, specs: Sequence[ArraySpec]
) -> GraphModule:
    """The backward half with these gradients alone, zeros where there is none."""
    graph = Graph()
    row: Any = graph.graph_copy(backward.graph, {})
    found: list[Any] = []
    for i, spec in zip(argnums, specs, strict=True):
        gradient = row[i]
        if gradient is None:
            how: dict[str, Any] = {
                "dtype": getattr(torch, spec.dtype),
                "device": torch.device(spec.device),
            }
            gradient = graph.call_function(_aten.zeros.default, (list(spec.shape),), how)
            gradient.meta["val"] = fake_tensors([spec])[0]
        found.append(gradient)
    graph.output(tuple(found))
    graph.eliminate_dead_code(has_side_effect)
    copy_aliased_outputs(graph)
    return GraphModule(backward, graph)


def _ancestors(nodes: Iterable[Any], known: Set[Node] = frozenset()) -> set[Node]:
    """All that `nodes` are made of, themselves included, as far as it is not `known`."""
    found: set[Node] = set()
    waiting = [x for x in nodes if x is not None]
    while waiting:
        node = waiting.pop()
        if node not in found and node not in known:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _side_effects(graph: Graph, cotangents: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Checks, and random numbers, which nobody may draw twice, of each of the passes."""
    after = set(cotangents)
    early: list[Node] = []
    late: list[Node] = []
    for node in graph.nodes:
        if after.intersection(node.all_input_nodes):
            after.add(node)
        if is_check(node) or is_random(node):
            (late if node in after else early).append(node)
    return early, late


def _saved_values(gradients: Sequence[Node | None], first: set[Node]) -> set[Node]:
    """The values of the forward pass that the backward pass is handed: NOTE [what is kept]."""
    kept: set[Node] = set()
    seen: set[Node] = set()
    waiting = [x for x in gradients if x is not None]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in first and not _is_cheap_to_recompute(node):
            kept.add(node)
        else:
            waiting += node.all_input_nodes
    return kept


def _is_cheap_to_recompute(node: Node) -> bool:
    """Whether it costs nothing to compute this value of the forward pass again."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        source = node.all_input_nodes[0]
        return (
            not _is_tensor(source)
            and source.op == "call_function"
            and _is_cheap_to_recompute(source)
        )
    if not node.all_input_nodes:  # zeros, a range
        return not is_random(node)
    if not returns_view(node.target) and node.target is not _aten._unsafe_view.default:
        return False
    viewed = node.all_input_nodes[0]
    return viewed.op == "placeholder" or _size(viewed) <= _size(node)


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _size(node: Node) -> int:
    """Elements of a value, of all together where it is several."""
    value = node.meta.get("val")
    row = value if isinstance(value, (tuple, list)) else [value]
    return sum(x.numel() for x in row if isinstance(x, torch.Tensor))


class _GraphCopy:
    """A part of the graph of `module` from `inputs` to `wanted`, copied in its order."""

    def __init__(
        self, module: GraphModule, inputs: Sequence[Node | None], wanted: Iterable[Any]
    ) -> None:
        self.graph = Graph()
        self.made: dict[Node, Node] = {}
        for i, x in enumerate(inputs):
            given = self.graph.placeholder(f"x{i}")
            if x is not None:
                given.meta = dict(x.meta)
                self.made[x] = given
        for x in list(self.made):
            _back_in_order(self, x)
        needed = _ancestors(wanted, self.made.keys())
        for node in module.graph.nodes:
            if node in needed:
                self.made[node] = self.graph.node_copy(node, self.made.__getitem__)
        self._whole = module

    def end(self, row: Sequence[Node | None]) -> None:
        """Let the graph return `row`, no two of which share memory."""
        self.graph.output(tuple(row))
        copy_aliased_outputs(self.graph)
        self.module = GraphModule(self._whole, self.graph)


def _order(value: torch.Tensor) -> list[int]:
    """The axes of `value` from the one with the largest stride to the one with the smallest."""
    return sorted(range(value.dim()), key=lambda axis: -value.stride(axis))


def _by_memory(forward: _GraphCopy, node: Node) -> Node:
    """`node` with its axes in the order of memory, dense."""
    found, value = forward.made[node], node.meta["val"]
    if value.is_contiguous() and not value.is_conj() and not value.is_neg():
        return found
    order = _order(value)
    moved = forward.graph.call_function(_aten.permute.default, (found, order))
    moved.meta["val"] = value.permute(order)
    if moved.meta["val"].is_contiguous() and not value.is_conj() and not value.is_neg():
        return moved
    dense = forward.graph.call_function(
        _aten.clone.default, (moved,), {"memory_format": torch.contiguous_format}
    )
    dense.meta["val"] = moved.meta["val"].clone(memory_format=torch.contiguous_format)
    return dense


def _back_in_order(backward: _GraphCopy, node: Node) -> None:
    """Let the new graph read `node` with its axes as they were."""
    value = node.meta["val"]
    if value.is_contiguous():
        return
    order = _order(value)
    inverse = [order.index(axis) for axis in range(len(order))]
    handed = backward.made[node]
    handed.meta = {"val": value.permute(order)}
    again = backward.graph.call_function(_aten.permute.default, (handed, inverse))
    again.meta = dict(node.meta)
    backward.made[node] = again
