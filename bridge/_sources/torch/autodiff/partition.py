"""Partition of a joint graph into a forward, which saves residuals, and a backward.

NOTE [saved values]
The forward computes what the outputs depend on. It saves the values that the backward uses; the
backward computes the others itself. A view is recomputed from its base, so that an argument or an
output is saved as it is, unless the view is a small part of a large base. Saved values are
contiguous: where torch has the axes of a value in another order in memory, the value is saved with
its axes in the order of memory, and the backward permutes them back.
"""

import dataclasses
import operator
from collections.abc import Iterable, Sequence, Set
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bridge._arrays.torch.upstream.graphs import fake_tensors, returns_view
from bridge._core.op import Positions
from bridge._core.spec import ArraySpec
from bridge._sources.torch.capture.graph import (
    copy_aliased_outputs,
    has_side_effect,
    is_check,
    is_random,
    results,
)

_aten: Any = torch.ops.aten


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForwardBackwardGraphs:
    """The two halves of a joint graph.

    Attributes:
        forward: From the primals to the outputs, then the residuals.
        backward: From the saved primals, saved outputs, residuals and cotangents to the gradients
            of all primals, `None` for those that have none.
        saved_primals: Positions of the primals that the backward takes.
        saved_outputs: Positions of the outputs that the backward takes.
        residual_count: How many results of the forward are residuals.
    """

    forward: GraphModule
    backward: GraphModule
    saved_primals: Positions
    saved_outputs: Positions
    residual_count: int


def partition(
    module: GraphModule, primal_count: int, has_cotangent: Sequence[bool]
) -> ForwardBackwardGraphs:
    """Partition a joint graph.

    `has_cotangent` says for each output that the backward takes a cotangent of whether the joint
    graph takes it too.
    """
    graph = module.graph
    inputs: list[Node] = list(graph.find_nodes(op="placeholder"))
    primals, cotangents = inputs[:primal_count], inputs[primal_count:]
    outputs, gradients = results(graph)[:-primal_count], results(graph)[-primal_count:]
    early, late = _side_effects(graph, cotangents)
    in_forward = _with_ancestors([*primals, *outputs, *early])
    in_forward |= {
        x for x in graph.nodes if x.target is operator.getitem and x.args[0] in in_forward
    }
    saved = _saved_values(gradients, in_forward)

    saved_primals = tuple(i for i, x in enumerate(primals) if x in saved)
    saved_outputs = _first_positions(outputs, saved.difference(primals))
    known = {*primals, *(outputs[i] for i in saved_outputs)}
    residuals = [x for x in graph.nodes if x in saved and x not in known and x.op != "get_attr"]

    forward = _GraphCopy(module, primals, [*outputs, *residuals, *early])
    copies = [forward.copies[x] for x in outputs]
    forward.end([*copies, *(_in_memory_order(forward, x) for x in residuals)])
    saved_nodes = [*(primals[i] for i in saved_primals), *(outputs[i] for i in saved_outputs)]
    present = iter(cotangents)
    all_cotangents = [next(present) if has else None for has in has_cotangent]
    backward = _GraphCopy(module, [*saved_nodes, *residuals, *all_cotangents], [*gradients, *late])
    backward.end([None if x is None else backward.copies[x] for x in gradients])
    return ForwardBackwardGraphs(
        forward=forward.module,
        backward=backward.module,
        saved_primals=saved_primals,
        saved_outputs=saved_outputs,
        residual_count=len(residuals),
    )


def _first_positions(nodes: Sequence[Node], chosen: Set[Node]) -> Positions:
    """Return the first position of each of the `chosen` nodes."""
    positions = {x: i for i, x in reversed([*enumerate(nodes)]) if x in chosen}
    return tuple(sorted(positions.values()))


def select_gradients(
    backward: GraphModule, argnums: Positions, specs: Sequence[ArraySpec]
) -> GraphModule:
    """Copy the backward with the gradients at `argnums` only; zeros where there is none."""
    graph = Graph()
    gradients: Any = graph.graph_copy(backward.graph, {})
    selected: list[Any] = []
    for i, spec in zip(argnums, specs, strict=True):
        gradient = gradients[i]
        if gradient is None:
            options: dict[str, Any] = {
                "dtype": getattr(torch, spec.dtype),
                "device": torch.device(spec.device),
            }
            gradient = graph.call_function(_aten.zeros.default, (list(spec.shape),), options)
            gradient.meta["val"] = fake_tensors([spec])[0]
        selected.append(gradient)
    graph.output(tuple(selected))
    graph.eliminate_dead_code(has_side_effect)
    copy_aliased_outputs(graph)
    return GraphModule(backward, graph)


def _with_ancestors(nodes: Iterable[Any], known: Set[Node] = frozenset()) -> set[Node]:
    """Return `nodes` and all that they depend on, but not what is `known` or before it."""
    ancestors: set[Node] = set()
    queue = [x for x in nodes if x is not None]
    while queue:
        node = queue.pop()
        if node not in ancestors and node not in known:
            ancestors.add(node)
            queue += node.all_input_nodes
    return ancestors


def _side_effects(graph: Graph, cotangents: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return the checks and random numbers of the forward and those of the backward.

    Random numbers must not be drawn twice.
    """
    after = set(cotangents)
    early: list[Node] = []
    late: list[Node] = []
    for node in graph.nodes:
        if after.intersection(node.all_input_nodes):
            after.add(node)
        if is_check(node) or is_random(node):
            (late if node in after else early).append(node)
    return early, late


def _saved_values(gradients: Sequence[Node | None], in_forward: set[Node]) -> set[Node]:
    """Return the values of the forward that the backward uses: NOTE [saved values]."""
    saved: set[Node] = set()
    seen: set[Node] = set()
    queue = [x for x in gradients if x is not None]
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in in_forward and not _is_cheap_to_recompute(node):
            saved.add(node)
        else:
            queue += node.all_input_nodes
    return saved


def _is_cheap_to_recompute(node: Node) -> bool:
    """Return True if it costs nothing to compute this value of the forward again."""
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
    """Return the number of elements of a value, or of all values of a tuple."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else [value]
    return sum(x.numel() for x in values if isinstance(x, torch.Tensor))


class _GraphCopy:
    """A copy of the part of a graph that computes `outputs` from `inputs`.

    Attributes:
        graph: The new graph.
        copies: For each node of the old graph its copy.
    """

    def __init__(
        self, module: GraphModule, inputs: Sequence[Node | None], outputs: Iterable[Any]
    ) -> None:
        self.graph = Graph()
        self.copies: dict[Node, Node] = {}
        for i, x in enumerate(inputs):
            placeholder = self.graph.placeholder(f"x{i}")
            if x is not None:
                placeholder.meta = dict(x.meta)
                self.copies[x] = placeholder
        for x in list(self.copies):
            _restore_axes(self, x)
        ancestors = _with_ancestors(outputs, self.copies.keys())
        for node in module.graph.nodes:
            if node in ancestors:
                self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
        self._original = module

    def end(self, outputs: Sequence[Node | None]) -> None:
        """Let the graph return `outputs`, copied where they share memory."""
        self.graph.output(tuple(outputs))
        copy_aliased_outputs(self.graph)
        self.module = GraphModule(self._original, self.graph)


def _memory_order(value: torch.Tensor) -> list[int]:
    """Return the axes of `value` in the order of their strides, the largest first."""
    return sorted(range(value.dim()), key=lambda axis: -value.stride(axis))


def _in_memory_order(forward: _GraphCopy, node: Node) -> Node:
    """Return the copy of `node`, contiguous, with its axes in the order of memory."""
    copied, value = forward.copies[node], node.meta["val"]
    if value.is_contiguous() and not value.is_conj() and not value.is_neg():
        return copied
    order = _memory_order(value)
    permuted = forward.graph.call_function(_aten.permute.default, (copied, order))
    permuted.meta["val"] = value.permute(order)
    if permuted.meta["val"].is_contiguous() and not value.is_conj() and not value.is_neg():
        return permuted
    dense = forward.graph.call_function(
        _aten.clone.default, (permuted,), {"memory_format": torch.contiguous_format}
    )
    dense.meta["val"] = permuted.meta["val"].clone(memory_format=torch.contiguous_format)
    return dense


def _restore_axes(backward: _GraphCopy, node: Node) -> None:
    """Let the new graph read the input `node` with its axes in their old order."""
    value = node.meta["val"]
    if value.is_contiguous():
        return
    order = _memory_order(value)
    inverse = [order.index(axis) for axis in range(len(order))]
    placeholder = backward.copies[node]
    placeholder.meta = {"val": value.permute(order)}
    permuted = backward.graph.call_function(_aten.permute.default, (placeholder, inverse))
    permuted.meta = dict(node.meta)
    backward.copies[node] = permuted
