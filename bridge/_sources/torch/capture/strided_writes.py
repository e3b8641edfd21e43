"""Writes by strides in captured graphs, as gradients of views changed in place make them."""

from typing import Any

import torch
from torch.fx import Graph, Node

_aten: Any = torch.ops.aten
_DENSE = {"memory_format": torch.contiguous_format}


def rewrite_strided_write(graph: Graph, node: Node) -> bool:
    """Write `as_strided_scatter`, which torch cannot batch, as a scatter at positions in memory."""
    target: Any = node.args[0]
    source: Any = node.args[1]
    size, stride, offset, *_ = (*node.args[2:], None)
    value, written = target.meta["val"], source.meta["val"]
    lies_dense = value.is_contiguous() and not value.is_conj() and not written.is_conj()
    if not lies_dense or value.storage_offset() or _overlaps(size, stride):
        return False
    count, shape = value.numel(), list(value.shape)
    with graph.inserting_before(node):

        def call(operator: Any, *args: Any, **kwargs: Any) -> Node:
            made = graph.call_function(operator, args, kwargs)
            values = [x.meta["val"] if isinstance(x, Node) else x for x in args]
            made.meta["val"] = operator(*values, **kwargs)
            return made

        with value.fake_mode:
            index = call(_aten.arange.default, count, dtype=torch.int64, device=value.device)
            at = call(_aten.as_strided.default, index, size, stride, offset or 0)
            at = call(_aten.view.default, call(_aten.clone.default, at, **_DENSE), [-1])
            row = call(_aten.view.default, call(_aten.clone.default, source, **_DENSE), [-1])
            flat = call(_aten.view.default, target, [count])
            found = call(_aten.scatter.src, flat, 0, at, row)
            found = call(_aten.view.default, found, shape)
    node.replace_all_uses_with(found)
    graph.erase_node(node)
    return True


def _overlaps(size: Any, stride: Any) -> bool:
    """Whether two of the positions may be one."""
    reach = 0
    for step, count in sorted(zip(stride, size, strict=True)):
        if count > 1 and step <= reach:
            return True
        reach += step * (count - 1)
    return False
