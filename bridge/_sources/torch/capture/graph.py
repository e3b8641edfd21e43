"""Captured graphs: what is taken out of them, and where a value in them lies.

NOTE [functional graphs]
Nothing in a captured graph is changed in place. A clone is therefore its argument and a detached
value its original, and both are taken out, but for a clone that makes a result dense, or gives it
memory of its own.
"""

import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.fx import Graph, GraphModule, Node
from torch.fx.graph import CodeGen

from bridge._sources.torch.capture.strided_writes import rewrite_strided_write
from bridge._sources.torch.internals import has_no_memory, returns_view, same_storage, with_effects

_aten: Any = torch.ops.aten
_DENSE: dict[str, Any] = {"memory_format": torch.contiguous_format}
_END = 4  # position of the argument of slice_scatter, by default all the way
_SAME = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh_copy.default}


def simplify(module: GraphModule) -> None:
    """Take out of the graph of `module` what computes nothing in it."""
    graph = module.graph
    graph.set_codegen(CodeGen())  # the calling convention of pytrees, gone
    end = graph.output_node()
    end.args = (tuple(pytree.tree_flatten(end.args[0])[0]),)
    _forget_order(graph)
    _give_memory(module)
    _forget_names(graph)
    for node in list(graph.nodes):
        if _rewrite(graph, node):
            continue
        if node.target in _SAME or (node.target is _aten.clone.default and _is_needless(node)):
            source: Any = node.args[0]
            if node.target is _aten.lift_fresh_copy.default:  # made in the function itself
                source.meta["fresh"] = True
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code(has_side_effect)


def _forget_names(graph: Graph) -> None:
    """Take out the names that parts of a function have in a profile."""
    for node in reversed(graph.nodes):
        if getattr(node.target, "namespace", None) == "profiler":
            graph.erase_node(node)


def _give_memory(module: GraphModule) -> None:
    """Write out zeros among the constants, which torch makes without memory for tangents."""
    for node in module.graph.find_nodes(op="get_attr"):
        constant = operator.attrgetter(str(node.target))(module)
        if isinstance(constant, torch.Tensor) and has_no_memory(constant):
            setattr(module, str(node.target), constant.clone())


def _rewrite(graph: Graph, node: Node) -> bool:
    """Write an operator that torch cannot batch as others that it can."""
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
        return _rewrite_mask(graph, node)
    elif node.target is _aten.slice_scatter.default and len(node.args) > _END:
        size = node.meta["val"].shape[node.args[_END - 2]]
        node.update_arg(_END, min(node.args[_END], size))  # pyright: ignore[reportArgumentType]
    return False


def _rewrite_copy(graph: Graph, node: Node) -> bool:
    """Write the functional `x.copy_(y)` as `y` in the shape and dtype of `x`."""
    found: Any = node.args[1]
    made, value = node.meta["val"], found.meta["val"]
    if made.is_conj() or made.is_neg() or value.is_conj() or value.is_neg():
        return False
    if not made.is_contiguous() and (made.stride() != value.stride() or made.dtype != value.dtype):
        return False
    with graph.inserting_before(node):
        if made.dtype != value.dtype:
            found = graph.call_function(_aten._to_copy.default, (found,), {"dtype": made.dtype})
            value = found.meta["val"] = value.to(made.dtype)
        if made.shape != value.shape:
            found = graph.call_function(_aten.expand.default, (found, list(made.shape)))
            value = found.meta["val"] = value.expand(made.shape)
        if made.stride() != value.stride():
            found = graph.call_function(_aten.clone.default, (found,), dict(_DENSE))
            found.meta["val"] = made
    node.replace_all_uses_with(found)
    graph.erase_node(node)
    return True


def _rewrite_mask(graph: Graph, node: Node) -> bool:
    """Write the functional `x[..., mask] = number` by `torch.where`."""
    target, indices, number, *accumulates = node.args
    mask: Any = indices[-1] if isinstance(indices, (list, tuple)) and indices else None
    if any(accumulates) or mask is None or any(indices[:-1]):  # pyright: ignore[reportOptionalSubscript, reportIndexIssue, reportArgumentType]
        return False
    value, made = mask.meta["val"], node.meta["val"]
    if value.dtype != torch.bool or number.meta["val"].numel() != 1:  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        return False
    with graph.inserting_before(node):
        for _ in range(made.dim() - value.dim() - len(indices) + 1):  # pyright: ignore[reportArgumentType]
            mask = graph.call_function(_aten.unsqueeze.default, (mask, -1))
            value = mask.meta["val"] = value.unsqueeze(-1)
        found = graph.call_function(_aten.where.self, (mask, number, target))
    found.meta["val"] = made
    node.replace_all_uses_with(found)
    graph.erase_node(node)
    return True


def is_check(node: Node) -> bool:
    """Whether an operator raises or does nothing, as assertions do, which have no results."""
    schema = getattr(node.target, "_schema", None)
    return bool(node.meta.get("effect")) or (schema is not None and not schema.returns)


def has_side_effect(node: Node) -> bool:
    """Whether a node does something besides its result: checks, or draws random numbers."""
    return node.is_impure() or bool(node.meta.get("effect"))


def _is_needless(clone: Node) -> bool:
    """Whether a clone is like its argument to whoever reads it."""
    value = clone.args[0].meta.get("val")  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    if value is None or value.is_conj() or value.is_neg():
        return False
    form = clone.kwargs.get("memory_format")
    if form is torch.contiguous_format:
        return value.is_contiguous()
    # Determinants and solutions keep factors of a matrix or of its transpose, as it lies in memory.
    return form not in (None, torch.preserve_format) or value.stride() == clone.meta["val"].stride()


def _forget_order(graph: Graph) -> None:
    """Call plainly what torch orders by tokens, and leave out the tokens."""
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
    """The nodes that a graph returns, `None` for what is nothing."""
    return list(graph.output_node().args[0])  # pyright: ignore[reportArgumentType, reportReturnType]


def is_random(node: Node) -> bool:
    """Whether an operator draws random numbers, as attention may, but not without dropout."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    if "dropout_p" not in names:
        return True
    chances = dict(zip(names, node.args, strict=False)) | node.kwargs
    return bool(chances.get("dropout_p", 0.0))


def storage_roots(nodes: Iterable[Node]) -> dict[Node, frozenset[Node]]:
    """For each node the nodes in whose memory its value lies: itself, unless it is a view."""
    found: dict[Node, frozenset[Node]] = {}
    for node in nodes:
        inputs = [x for x in node.all_input_nodes if x in found]
        value = node.meta.get("val")
        if node.target is operator.getitem:
            viewed = [x for x in inputs if found[x] != frozenset([x])]
        elif returns_view(node.target):
            viewed = inputs
        else:
            viewed = [x for x in inputs if same_storage(x.meta.get("val"), value)]
        found[node] = frozenset[Node]().union(*(found[x] for x in viewed)) or frozenset([node])
    return found


def copy_aliased_outputs(graph: Graph) -> None:
    """Copy the results that lie in the memory of an input, a constant or another result."""
    lies = storage_roots(graph.nodes)
    taken = {node for node in graph.nodes if node.op in ("placeholder", "get_attr")}
    found: list[Any] = []
    for result in results(graph):
        kept = result
        if result is not None and lies[result] & taken:
            with graph.inserting_before(graph.output_node()):
                kept = graph.call_function(_aten.clone.default, (result,), _DENSE)
            kept.meta["val"] = result.meta.get("val")
        elif result is not None:
            taken |= lies[result]
        found.append(kept)
    graph.output_node().args = (tuple(found),)
