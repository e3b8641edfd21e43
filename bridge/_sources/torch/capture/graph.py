"""Simplification of captured graphs, and the aliasing of values in them.

NOTE [functional graphs]
Nothing in a captured graph is changed in place. So a clone equals its argument, a detached value
equals its original, and both are removed. Clones that make an output contiguous, or give it memory
of its own, stay.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

from bridge._arrays.torch.upstream.graphs import (
    argument_names,
    returns_view,
    schema_of,
    with_effects,
)
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._arrays.torch.upstream.tensors import has_no_memory, same_storage
from bridge._sources.torch.capture.strided_writes import rewrite_strided_write

_aten: Any = torch.ops.aten
_DENSE: dict[str, Any] = {"memory_format": torch.contiguous_format}
_END = 4  # the position of the argument `end` of slice_scatter, by default a huge number
_SAME = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default}


def simplify(module: GraphModule) -> None:
    """Remove from the graph of `module` the nodes that compute nothing."""
    graph = module.graph
    graph.set_codegen(CodeGen())  # without the calling convention of pytrees
    end = graph.output_node()
    end.args = (tuple(pytree.tree_flatten(end.args[0])[0]),)
    _remove_tokens(graph)
    _materialize_zeros(module)
    _remove_profiler_nodes(graph)
    for node in list(graph.nodes):
        is_erased = _rewrite_unbatchable(graph, node)
        if is_erased:
            continue
        if node.target in _SAME or (node.target is _aten.clone.default and _is_needless(node)):
            source: Any = node.args[0]
            if node.target is _aten.lift_fresh_copy.default:
                source.meta["fresh"] = True  # a constant made in the function itself
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code(has_side_effect)


def _remove_profiler_nodes(graph: Graph) -> None:
    """Remove the nodes that name parts of a function in a profile."""
    for node in reversed(graph.nodes):
        if getattr(node.target, "namespace", None) == "profiler":
            graph.erase_node(node)


def _materialize_zeros(module: GraphModule) -> None:
    """Allocate the constants that torch makes as zeros without memory, for tangents."""
    for node in module.graph.find_nodes(op="get_attr"):
        constant = operator.attrgetter(str(node.target))(module)
        if isinstance(constant, torch.Tensor) and has_no_memory(constant):
            setattr(module, str(node.target), constant.clone())


def _rewrite_unbatchable(graph: Graph, node: Node) -> bool:
    """Replace an operator that torch cannot batch; return True if `node` is gone."""
    if node.target is _aten._neg_view.default:
        node.target = _aten.neg.default
        node.meta["val"] = node.meta["val"].resolve_neg()
    elif node.target is _aten.fill.Scalar:
        node.target = _aten.full_like.default
    elif node.target is _aten.copy.default:
        return _rewrite_copy(graph, node)
    elif node.target is _aten.as_strided_scatter.default:
        return rewrite_strided_write(graph, node)
    elif node.target is _aten.index_put.default:
        return _rewrite_masked_assignment(graph, node)
    elif node.target is _aten.slice_scatter.default and len(node.args) > _END:
        size = node.meta["val"].shape[node.args[_END - 2]]
        node.update_arg(_END, min(node.args[_END], size))  # pyright: ignore[reportArgumentType]
    return False


def _rewrite_copy(graph: Graph, node: Node) -> bool:
    """Replace the functional `x.copy_(y)` by `y` in the shape and dtype of `x`."""
    source: Any = node.args[1]
    output, value = node.meta["val"], source.meta["val"]
    if output.is_conj() or output.is_neg() or value.is_conj() or value.is_neg():
        return False
    same_layout = output.stride() == value.stride() and output.dtype == value.dtype
    if not output.is_contiguous() and not same_layout:
        return False
    with graph.inserting_before(node):
        if output.dtype != value.dtype:
            source = graph.call_function(_aten._to_copy.default, (source,), {"dtype": output.dtype})
            value = source.meta["val"] = value.to(output.dtype)
        if output.shape != value.shape:
            source = graph.call_function(_aten.expand.default, (source, list(output.shape)))
            value = source.meta["val"] = value.expand(output.shape)
        if output.stride() != value.stride():
            source = graph.call_function(_aten.clone.default, (source,), dict(_DENSE))
            source.meta["val"] = output
    node.replace_all_uses_with(source)
    graph.erase_node(node)
    return True


def _rewrite_masked_assignment(graph: Graph, node: Node) -> bool:
    """Replace the functional `x[..., mask] = number` by `torch.where`."""
    target, indices, number, *accumulates = node.args
    mask: Any = indices[-1] if isinstance(indices, (list, tuple)) and indices else None
    if any(accumulates) or mask is None or any(indices[:-1]):  # pyright: ignore[reportOptionalSubscript, reportIndexIssue, reportArgumentType]
        return False
    value, output = mask.meta["val"], node.meta["val"]
    if value.dtype != torch.bool or number.meta["val"].numel() != 1:  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        return False
    with graph.inserting_before(node):
        for _ in range(output.dim() - value.dim() - len(indices) + 1):  # pyright: ignore[reportArgumentType]
            mask = graph.call_function(_aten.unsqueeze.default, (mask, -1))
            value = mask.meta["val"] = value.unsqueeze(-1)
        selection = graph.call_function(_aten.where.self, (mask, number, target))
    selection.meta["val"] = output
    node.replace_all_uses_with(selection)
    graph.erase_node(node)
    return True


def is_check(node: Node) -> bool:
    """Return True if an operator has no results and may only raise, as an assertion."""
    schema = schema_of(node.target)
    return bool(node.meta.get("effect")) or (schema is not None and not schema.returns)


def has_side_effect(node: Node) -> bool:
    """Return True if a node does more than compute its result: checks, or random numbers."""
    return node.is_impure() or bool(node.meta.get("effect"))


def _is_needless(clone: Node) -> bool:
    """Return True if every reader of a clone could read its argument instead."""
    value = clone.args[0].meta.get("val")  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    if value is None or value.is_conj() or value.is_neg():
        return False
    layout = clone.kwargs.get("memory_format")
    if layout is torch.contiguous_format:
        return value.is_contiguous()
    # Determinants and solutions factor a matrix or its transpose, depending on its strides.
    same_strides = value.stride() == clone.meta["val"].stride()
    return layout not in (None, torch.preserve_format) or same_strides


def _remove_tokens(graph: Graph) -> None:
    """Call operators with effects directly, without the tokens by which torch orders them."""
    tokens: set[Any] = set()
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not with_effects:
            continue
        token, target, *args = node.args
        with graph.inserting_before(node):
            call = graph.call_function(target, tuple(args), dict(node.kwargs))
        call.meta["effect"] = True
        for user in list(node.users):
            user.replace_all_uses_with(token if user.args[1] == 0 else call)
            graph.erase_node(user)
        graph.erase_node(node)
        tokens.add(token)
    end = graph.output_node()
    end.args = (tuple(x for x in results(graph) if x not in tokens),)
    for token in tokens:
        graph.erase_node(token)


def results(graph: Graph) -> list[Any]:
    """Return the nodes that a graph returns, `None` where it returns nothing."""
    return list(graph.output_node().args[0])  # pyright: ignore[reportArgumentType, reportReturnType]


def add_none_gradients(graph: Graph, count: int) -> None:
    """Let a graph without gradients return `None` in place of so many."""
    graph.output_node().args = ((*results(graph), *[None] * count),)


def is_random(node: Node) -> bool:
    """Return True if an operator draws random numbers; attention does only with dropout."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    names = argument_names(node.target)
    if "dropout_p" not in names:
        return True
    arguments = dict(zip(names, node.args, strict=False)) | node.kwargs
    return bool(arguments.get("dropout_p", 0.0))


def storage_roots(nodes: Iterable[Node]) -> dict[Node, frozenset[Node]]:
    """Return for each node the nodes whose memory its value uses: itself, unless it is a view."""
    roots: dict[Node, frozenset[Node]] = {}
    for node in nodes:
        inputs = [x for x in node.all_input_nodes if x in roots]
        value = node.meta.get("val")
        if node.target is operator.getitem:
            viewed = [x for x in inputs if roots[x] != frozenset([x])]
        elif returns_view(node.target):
            viewed = inputs
        else:
            viewed = [x for x in inputs if same_storage(x.meta.get("val"), value)]
        roots[node] = frozenset[Node]().union(*(roots[x] for x in viewed)) or frozenset([node])
    return roots


def copy_aliased_outputs(graph: Graph) -> None:
    """Copy the outputs that share memory with an input, a constant or another output."""
    roots = storage_roots(graph.nodes)
    used = {node for node in graph.nodes if node.op in ("placeholder", "get_attr")}
    outputs: list[Any] = []
    for result in results(graph):
        output = result
        if result is not None and roots[result] & used:
            with graph.inserting_before(graph.output_node()):
                output = graph.call_function(_aten.clone.default, (result,), _DENSE)
            output.meta["val"] = result.meta.get("val")
        elif result is not None:
            used |= roots[result]
        outputs.append(output)
    graph.output_node().args = (tuple(outputs),)
