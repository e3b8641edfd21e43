"""Captured graphs as listings, which need no torch to be read.

NOTE [in parts]
Most operators of torch can be taken apart, by tables that it has for its own compiler. Whoever
reads a listing may lack an operator, and then asks for its parts; an operator that is known is not
taken apart, since nothing is gained by that, and sometimes a lot of time is lost.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from bridge._arrays.torch import ARRAYS as ARRAYS, dtype_name
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph, Operation, ValueRef
from bridge._sources.torch.capture.graph import is_random, results
from bridge._sources.torch.capture.trace import trace_functional
from bridge._sources.torch.code.codegen import get_attribute
from bridge._sources.torch.internals import decomposition
from bridge._sources.torch.program import Program, Settings

_aten: Any = torch.ops.aten
_export = ARRAYS.lender("cpu")
# They read memory, whose layout a listing does not know.
_BY_LAYOUT = {_aten.as_strided.default, _aten.as_strided_scatter.default}
# They factor the transpose of a real matrix that lies row by row, and derivatives know that.
_BY_ROWS = {_aten._linalg_det.default, _aten._linalg_slogdet.default}
# What says where and how an array lies, and nothing about its values.
_NOT_SAID = {"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking"}
_UNSAID = (torch.device, torch.layout, torch.memory_format, torch.Generator)


def export_graph(program: Program, settings: Settings) -> Callable[[], Graph] | None:
    """What lists `program`, `None` where that is not asked for."""
    if not settings.exports_graph:
        return None
    return functools.cache(lambda: _export_module(program.module, settings.dtype, settings.seed))


def _export_module(module: GraphModule, dtype: torch.dtype, seed: int | None = None) -> Graph:
    """The graph of `module`, random numbers following from the input at the position `seed`."""
    graph = module.graph
    inputs: list[Node] = list(graph.find_nodes(op="placeholder"))
    attributes: list[Node] = list(graph.find_nodes(op="get_attr"))
    constants = [get_attribute(module, str(node.target)) for node in attributes]
    specs = {node: _specs(node.meta.get("val")) for node in graph.nodes}
    specs |= {node: _specs(x) for node, x in zip(attributes, constants, strict=True)}
    writer = GraphExporter([*inputs, *attributes], specs, dtype)
    for node in graph.nodes:
        if node.op == "call_function":
            writer.add(node)
    return Graph(
        inputs=tuple(specs[node] for node in inputs),
        constants=tuple(_export(constants)),
        operations=tuple(writer.operations),
        outputs=tuple(None if node is None else writer.values[node] for node in results(graph)),
        rng_input=seed,
    )


class _NotDecomposedError(Exception):
    """Torch's tables have an operator, but not for such arguments."""


class GraphExporter:
    """Instructions for the nodes of one graph, one after the other."""

    def __init__(self, known: Sequence[Node], specs: dict[Node, Any], dtype: torch.dtype) -> None:
        self.operations: list[Operation] = []
        self.values = {node: ValueRef(i) for i, node in enumerate(known)}
        self._known, self._specs, self._dtype = len(known), specs, dtype
        self._drawn = 0
        self._parts: dict[str, Graph | None] = {}

    def add(self, node: Node) -> None:
        """One more node."""
        if node.target is operator.getitem:
            source: Any = node.args[0]
            self.values[node] = ValueRef(self.values[source].index, cast(int, node.args[1]))
            return
        if node.target in _BY_LAYOUT:
            _check_layout(node)
        draw = self._drawn if is_random(node) else None
        self._drawn += draw is not None
        kwargs = {k: self._neutral(x) for k, x in node.kwargs.items() if k not in _NOT_SAID}
        if node.target in _BY_ROWS and _lies_by_rows(node.all_input_nodes[0].meta["val"]):
            kwargs["transposed"] = True
        made = Operation(
            operator=str(node.target),
            args=self._neutral(node.args),
            kwargs=kwargs,
            output_specs=self._specs[node],
            operands=tuple(self.values[x] for x in node.all_input_nodes),
            rng_index=draw,
            decompose=lambda: self._decompose(node),
        )
        self.values[node] = ValueRef(self._known + len(self.operations))
        self.operations.append(made)

    def _neutral(self, x: Any) -> Any:
        if isinstance(x, Node):
            return self.values[x]
        if isinstance(x, torch.dtype):
            return dtype_name(x)
        if isinstance(x, (list, tuple)):
            return tuple(map(self._neutral, x))
        return None if isinstance(x, _UNSAID) else x

    def _decompose(self, node: Node) -> Graph | None:
        """What torch makes of an operator: NOTE [in parts]."""
        key = (
            f"{node.target} {_fill_in(node.args, self._specs)} {_fill_in(node.kwargs, self._specs)}"
        )
        if key not in self._parts:
            how = decomposition(node.target)
            try:
                self._parts[key] = how and self._trace_parts(node, how)
            except _NotDecomposedError:
                self._parts[key] = None
        return self._parts[key]

    def _trace_parts(self, node: Node, how: Callable[..., Any]) -> Graph:
        inputs = list(node.all_input_nodes)

        def fun(*xs: torch.Tensor) -> Sequence[Any]:
            row = dict(zip(inputs, xs, strict=True))
            found = how(*_fill_in(node.args, row), **_fill_in(node.kwargs, row))
            if found is NotImplemented:  # for these shapes, say
                raise _NotDecomposedError
            return found if isinstance(found, (list, tuple)) else [found]

        primals = tuple(self._specs[x] for x in inputs)
        module = trace_functional(fun, primals, name=str(node.target), dtype=self._dtype)
        return _export_module(module, self._dtype)


def _fill_in(x: Any, row: Mapping[Node, Any]) -> Any:
    """`x` with what `row` has for its nodes."""
    if isinstance(x, Node):
        return row[x]
    if isinstance(x, (list, tuple)):
        return [_fill_in(item, row) for item in x]
    return {k: _fill_in(item, row) for k, item in x.items()} if isinstance(x, dict) else x


def _specs(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_specs, value))
    return ARRAYS.spec(value) if isinstance(value, torch.Tensor) else None


def _lies_by_rows(matrix: torch.Tensor) -> bool:
    return matrix.is_contiguous() and not matrix.is_complex()


def _check_layout(node: Node) -> None:
    """Raise unless the tensor whose memory an operator reads lies there row by row."""
    value = node.all_input_nodes[0].meta["val"]
    if not value.is_contiguous() or value.storage_offset():
        raise NoRuleError(
            f"{node.target} reads the memory of a tensor of shape {list(value.shape)} and strides "
            f"{list(value.stride())}, which arrays outside of torch do not have. Call "
            "`.contiguous()` on the tensor first."
        )
