"""Writes by strides in captured graphs, which come from gradients of views changed in place."""

from typing import Any

import torch
from torch.fx import Graph, Node

_aten: Any = torch.ops.aten
_DENSE = {"memory_format": torch.contiguous_format}


def rewrite_strided_write(graph: Graph, node: Node) -> bool:
    """Replace `as_strided_scatter`, which torch cannot batch, by a scatter at memory positions.

    Return True if `node` was replaced.
    """
    target: Any = node.args[0]
    source: Any = node.args[1]
    size, stride, offset, *_ = (*node.args[2:], None)
    value, written = target.meta["val"], source.meta["val"]
    is_dense = value.is_contiguous() and not value.is_conj() and not written.is_conj()
    if not is_dense or value.storage_offset() or _may_overlap(size, stride):
        return False
    count, shape = value.numel(), list(value.shape)
    with graph.inserting_before(node):

        def call(operator: Any, *args: Any, **kwargs: Any) -> Node:
            new_node = graph.call_function(operator, args, kwargs)
            values = [x.meta["val"] if isinstance(x, Node) else x for x in args]
            new_node.meta["val"] = operator(*values, **kwargs)
            return new_node

        with value.fake_mode:
            memory = call(_aten.arange.default, count, dtype=torch.int64, device=value.device)
            index = call(_aten.as_strided.default, memory, size, stride, offset or 0)
            index = call(_aten.view.default, call(_aten.clone.default, index, **_DENSE), [-1])
            values = call(_aten.view.default, call(_aten.clone.default, source, **_DENSE), [-1])
            flat = call(_aten.view.default, target, [count])
            scattered = call(_aten.scatter.src, flat, 0, index, values)
            output = call(_aten.view.default, scattered, shape)
    node.replace_all_uses_with(output)
    graph.erase_node(node)
    return True


def _may_overlap(size: Any, stride: Any) -> bool:
    """Return True if two elements of such a view may lie at one position in memory."""
    last_position = 0
    for step, count in sorted(zip(stride, size, strict=True)):
        if count > 1 and step <= last_position:
            return True
        last_position += step * (count - 1)
    return False
