"""Outputs of a graph that can be computed directly in their buffers.

NOTE [written in place]
New memory costs more than the writes to it: the kernel zeroes it page by page. So the operator that
computes an output writes directly to the output's buffer, if it has an out variant that does not
copy. Views in between have the same elements in the same order, so other operators that read the
buffer read the same values.
"""

import dataclasses
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge._arrays.torch.upstream.graphs import out_variant
from bridge._sources.torch.capture.graph import is_random, results, storage_roots

_aten: Any = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class OutVariant:
    """A way for a node to write to the buffer of an output.

    Attributes:
        output_position: The position of the output.
        out_operator: The operator to call with `out`; `None` if the value is copied to the buffer.
        view_shape: The shape in which the node views the buffer; `None` for that of the output.
    """

    output_position: int
    out_operator: Any
    view_shape: tuple[int, ...] | None


def find_out_variants(graph: Graph) -> dict[Node, OutVariant]:
    """Return the nodes that can write to the buffers of outputs: NOTE [written in place]."""
    roots = storage_roots(graph.nodes)
    variants: dict[Node, OutVariant] = {}
    for i, result in enumerate(results(graph)):
        if result is None or len(roots[result]) != 1 or result.op != "call_function":
            continue
        (root,) = roots[result]
        if _is_copy(result):
            variants[result] = OutVariant(i, None, None)
        elif _same_elements(root, result) and (operator := out_variant(root.target)):
            shape, output_shape = (tuple(node.meta["val"].shape) for node in (root, result))
            variants[root] = OutVariant(i, operator, None if shape == output_shape else shape)
    return variants


def _is_copy(node: Node) -> bool:
    """Return True if `node` only copies its argument, perhaps to another dtype."""
    value = node.meta["val"]
    if node.target is _aten.clone.default:
        return value.is_contiguous()  # other readers may rely on the order in memory
    if node.target is not _aten._to_copy.default or not set(node.kwargs) <= {"dtype"}:
        return False
    source = node.all_input_nodes[0].meta["val"]
    # torch warns where an imaginary part is dropped, and `copy_` would drop it without a warning.
    keeps_imaginary = value.is_complex() or not source.is_complex()
    return value.is_contiguous() and keeps_imaginary


def _same_elements(root: Node, result: Node) -> bool:
    """Return True if `result` is all of what the operator `root` computes, in the same order."""
    value, viewed = root.meta.get("val"), result.meta["val"]
    if root.op != "call_function" or not isinstance(value, torch.Tensor) or is_random(root):
        return False
    is_plain = all(not x.is_conj() and not x.is_neg() for x in (value, viewed))
    is_dense = value.is_contiguous() and viewed.is_contiguous()
    is_alike = value.dtype == viewed.dtype and value.numel() == viewed.numel()
    return is_plain and is_dense and is_alike
