"""Export of captured graphs as neutral graphs, which can be read without torch.

NOTE [decomposition on demand]
torch has tables, for its own compiler, that decompose most of its operators into simpler ones. A
reader of a neutral graph that has no lowering for an operator asks for its decomposition. Operators
that it knows are not decomposed: that gains nothing, and can cost a lot of time.
"""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from bridge._arrays.torch import ARRAYS as ARRAYS, dtype_name
from bridge._arrays.torch.upstream.graphs import decomposition
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph, Operation, ValueRef
from bridge._sources.torch.capture.graph import is_random, results
from bridge._sources.torch.capture.trace import trace_decomposition
from bridge._sources.torch.code.codegen import graph_constants
from bridge._sources.torch.program import Program, Settings

_aten: Any = torch.ops.aten
_export = ARRAYS.lender("cpu")
# These read memory by strides, and a neutral graph has none.
_BY_STRIDES = {_aten.as_strided.default, _aten.as_strided_scatter.default}
# These factor the transpose of a contiguous real matrix, and their derivatives rely on it.
_TRANSPOSING = {_aten._linalg_det.default, _aten._linalg_slogdet.default}
# Arguments that say where and how an array is stored, but nothing about its values.
_STORAGE_KEYWORDS = {"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking"}
_STORAGE_TYPES = (torch.device, torch.layout, torch.memory_format, torch.Generator)


def export_graph(program: Program, settings: Settings) -> Callable[[], Graph] | None:
    """Return what exports the graph of `program`; `None` where no target compiles it."""
    if not settings.exports_graph:
        return None
    return functools.cache(
        lambda: _export_module(program.module, settings.dtype, settings.seed_argnum)
    )


def _export_module(
    module: GraphModule, dtype: torch.dtype, seed_argnum: int | None = None
) -> Graph:
    """Export the graph of `module`; its random numbers follow from the input at `seed_argnum`."""
    graph = module.graph
    inputs: list[Node] = list(graph.find_nodes(op="placeholder"))
    constants = dict(graph_constants(module))
    specs = {node: _specs(node.meta.get("val")) for node in graph.nodes}
    specs |= {node: _specs(x) for node, x in constants.items()}
    exporter = GraphExporter([*inputs, *constants], specs, dtype)
    for node in graph.nodes:
        if node.op == "call_function":
            exporter.add(node)
    return Graph(
        inputs=tuple(specs[node] for node in inputs),
        constants=tuple(_export([*constants.values()])),
        operations=tuple(exporter.operations),
        outputs=tuple(None if node is None else exporter.values[node] for node in results(graph)),
        rng_input=seed_argnum,
    )


class _NotDecomposedError(Exception):
    """Raised if torch can decompose an operator, but not for these arguments."""


class GraphExporter:
    """Turns the nodes of one graph into operations, one after the other."""

    def __init__(self, known: Sequence[Node], specs: dict[Node, Any], dtype: torch.dtype) -> None:
        self.operations: list[Operation] = []
        self.values = {node: ValueRef(i) for i, node in enumerate(known)}
        self._known, self._specs, self._dtype = len(known), specs, dtype
        self._random_count = 0
        self._decompositions: dict[str, Graph | None] = {}

    def add(self, node: Node) -> None:
        """Append the operation of `node`."""
        if node.target is operator.getitem:
            source: Any = node.args[0]
            self.values[node] = ValueRef(self.values[source].value_index, cast(int, node.args[1]))
            return
        if node.target in _BY_STRIDES:
            _check_contiguous(node)
        rng_index = self._random_count if is_random(node) else None
        self._random_count += rng_index is not None
        kwargs = {k: self._neutral(x) for k, x in node.kwargs.items() if k not in _STORAGE_KEYWORDS}
        if node.target in _TRANSPOSING and _factors_transpose(node.all_input_nodes[0].meta["val"]):
            kwargs["transposed"] = True
        operation = Operation(
            operator=str(node.target),
            args=self._neutral(node.args),
            kwargs=kwargs,
            output_specs=self._specs[node],
            operands=tuple(self.values[x] for x in node.all_input_nodes),
            rng_index=rng_index,
            decompose=lambda: self._decompose(node),
        )
        self.values[node] = ValueRef(self._known + len(self.operations))
        self.operations.append(operation)

    def _neutral(self, x: Any) -> Any:
        """Return an argument of a node in neutral terms."""
        if isinstance(x, Node):
            return self.values[x]
        if isinstance(x, torch.dtype):
            return dtype_name(x)
        if isinstance(x, (list, tuple)):
            return tuple(map(self._neutral, x))
        return None if isinstance(x, _STORAGE_TYPES) else x

    def _decompose(self, node: Node) -> Graph | None:
        """Return the decomposition of an operator, if any: NOTE [decomposition on demand]."""
        key = (
            f"{node.target} {_fill_in(node.args, self._specs)} {_fill_in(node.kwargs, self._specs)}"
        )
        if key not in self._decompositions:
            decompose = decomposition(node.target)
            try:
                self._decompositions[key] = decompose and self._trace(node, decompose)
            except _NotDecomposedError:
                self._decompositions[key] = None
        return self._decompositions[key]

    def _trace(self, node: Node, decompose: Callable[..., Any]) -> Graph:
        """Export the graph of `decompose`, called with the arguments of `node`."""
        inputs = list(node.all_input_nodes)

        def fun(*xs: torch.Tensor) -> Sequence[Any]:
            values = dict(zip(inputs, xs, strict=True))
            outputs = decompose(*_fill_in(node.args, values), **_fill_in(node.kwargs, values))
            if outputs is NotImplemented:  # for these shapes, say
                raise _NotDecomposedError
            return outputs if isinstance(outputs, (list, tuple)) else [outputs]

        primals = tuple(self._specs[x] for x in inputs)
        module = trace_decomposition(fun, primals, name=str(node.target), dtype=self._dtype)
        return _export_module(module, self._dtype)


def _fill_in(x: Any, values: Mapping[Node, Any]) -> Any:
    """Replace the nodes in `x` by their `values`."""
    if isinstance(x, Node):
        return values[x]
    if isinstance(x, (list, tuple)):
        return [_fill_in(item, values) for item in x]
    return {k: _fill_in(item, values) for k, item in x.items()} if isinstance(x, dict) else x


def _specs(value: Any) -> Any:
    """Return the spec of a tensor, a tuple of specs for several, `None` for anything else."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_specs, value))
    return ARRAYS.spec(value) if isinstance(value, torch.Tensor) else None


def _factors_transpose(matrix: torch.Tensor) -> bool:
    """Return True if torch factors the transpose of `matrix`."""
    return matrix.is_contiguous() and not matrix.is_complex()


def _check_contiguous(node: Node) -> None:
    """Raise unless the tensor whose memory an operator reads is contiguous."""
    value = node.all_input_nodes[0].meta["val"]
    if not value.is_contiguous() or value.storage_offset():
        raise NoRuleError(
            f"{node.target} reads the memory of a tensor of shape {list(value.shape)} and strides "
            f"{list(value.stride())}, which arrays outside of torch do not have. Call "
            "`.contiguous()` on the tensor first."
        )
