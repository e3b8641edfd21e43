"""Which results of a graph can be computed where they are wanted.

NOTE [written in place]
Fresh memory costs more than what is written to it: the kernel hands it out zeroed, page by page. So
the operator that a result comes from writes straight to where the result belongs, if it has a
variant for that which does not copy itself. Views in between are of the same elements in the same
order, and what other operators read there is what they would have read elsewhere.
"""

import dataclasses
from typing import Any

import torch
from torch.fx import Graph, Node

from bridge._sources.torch.capture.graph import is_random, results, storage_roots
from bridge._sources.torch.internals import out_variant

_aten: Any = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class OutVariant:
    """How a node writes to where a result is wanted.

    Attributes:
        position: Of the result.
        variant: What is called with `out`; `None` where a value is copied there.
        shape: What the node takes the place for.
    """

    position: int
    variant: Any
    shape: tuple[int, ...]


def find_out_variants(graph: Graph) -> dict[Node, OutVariant]:
    """The nodes that can write to where results are wanted: NOTE [written in place]."""
    lies = storage_roots(graph.nodes)
    found: dict[Node, OutVariant] = {}
    for i, result in enumerate(results(graph)):
        if result is None or len(lies[result]) != 1 or result.op != "call_function":
            continue
        (base,) = lies[result]
        shape = tuple(result.meta["val"].shape)
        if _is_copy(result):
            found[result] = OutVariant(i, None, shape)
        elif _same_elements(base, result) and (variant := out_variant(base.target)):
            found[base] = OutVariant(i, variant, tuple(base.meta["val"].shape))
    return found


def _is_copy(node: Node) -> bool:
    """Whether a node is its argument in memory of its own, in another dtype at most."""
    value = node.meta["val"]
    if node.target is _aten.clone.default:
        return value.is_contiguous()  # others that read it may go by the order in memory
    if node.target is not _aten._to_copy.default or not set(node.kwargs) <= {"dtype"}:
        return False
    source = node.all_input_nodes[0].meta["val"]
    plain = value.is_complex() or not source.is_complex()
    return value.is_contiguous() and plain  # what else is dropped is warned of


def _same_elements(base: Node, result: Node) -> bool:
    """Whether a result is all that `base` computes, row by row, and it computes nothing else."""
    value, viewed = base.meta.get("val"), result.meta["val"]
    if base.op != "call_function" or not isinstance(value, torch.Tensor) or is_random(base):
        return False
    plain = all(not x.is_conj() and not x.is_neg() for x in (value, viewed))
    dense = value.is_contiguous() and viewed.is_contiguous()
    alike = value.dtype == viewed.dtype and value.numel() == viewed.numel()
    return plain and dense and alike
