"""Compilation of captured graphs to straight-line Python code.

torch's own code of a graph looks up each operator by four attributes on each call.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bridge._arrays.torch.upstream.graphs import raw_operator
from bridge._sources.torch.capture.graph import results
from bridge._sources.torch.code.out_variants import OutVariant, find_out_variants

Run = Callable[..., tuple[torch.Tensor, ...]]

_aten: Any = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)


def compile_graph(module: GraphModule) -> Run:
    """Compile the graph of `module` to a function of its inputs."""
    return _CodeWriter(module, {}, []).function()


def compile_graph_of_any_strides(module: GraphModule) -> Run:
    """Compile it to a function in which values may have other strides than in the graph.

    In a batch, operators return others, as attention does, of which there is no view.
    """
    return _CodeWriter(module, {}, [], dict.fromkeys(_VIEWS, _aten.reshape.default)).function()


def compile_graph_into(module: GraphModule) -> Run:
    """Compile it to a function of output buffers, then its inputs: NOTE [written in place].

    An output that can be written to its buffer is returned as that buffer.
    """
    outs = [f"out{i}" for i, _ in enumerate(results(module.graph))]
    return _CodeWriter(module, find_out_variants(module.graph), outs).function()


class _CodeWriter:
    """Writes a line of Python for each operator, with output buffers called `outs`."""

    def __init__(
        self,
        module: GraphModule,
        out_variants: Mapping[Node, OutVariant],
        outs: Sequence[str],
        replacements: Mapping[Any, Any] = {},
    ) -> None:
        self._module, self._out_variants, self._outs = module, out_variants, outs
        self._replacements = replacements
        self._unused_after = _values_unused_after(module.graph)
        self._parameters = list(outs)
        self._lines: list[str] = []
        self._names: dict[Node, str] = {}
        self._globals: dict[str, Any] = {}  # constants and operators, by the names in the lines
        for node in module.graph.nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        """Write a line for `node`, and delete the values that are not used after it."""
        name = self._names[node] = f"v{len(self._names)}"
        if node.op == "placeholder":
            self._parameters.append(name)
        elif node.op == "get_attr":
            self._globals[name] = get_attribute(self._module, str(node.target))
        elif node.op == "output":
            outputs = [self._expression(x) for x in results(node.graph)]
            for out_variant in self._out_variants.values():
                outputs[out_variant.output_position] = self._outs[out_variant.output_position]
            self._lines.append(f"return ({''.join(f'{x}, ' for x in outputs)})")
        else:
            self._lines.append(f"{name} = {self._call(node)}")
        self._lines += [f"del {self._names[x]}" for x in self._unused_after.get(node, ())]

    def _call(self, node: Node) -> str:
        """Write the call of the operator of `node`, or of its out variant."""
        out_variant = self._out_variants.get(node)
        target = self._replacements.get(node.target, node.target)
        arguments = [self._expression(x) for x in node.args]
        arguments += [f"{key}={self._expression(x)}" for key, x in node.kwargs.items()]
        if out_variant:
            out = self._outs[out_variant.output_position]
            if out_variant.out_operator is None:
                return f"{out}.copy_({arguments[0]})"
            shape = out_variant.view_shape
            arguments.append(f"out={out}" if shape is None else f"out={out}.view({shape})")
            target = out_variant.out_operator
        return f"{self._bind(raw_operator(target))}({', '.join(arguments)})"

    def function(self) -> Run:
        """Compile all lines to a function."""
        body = "\n    ".join(self._lines)
        exec(f"def run({', '.join(self._parameters)}):\n    {body}", self._globals)
        return self._globals["run"]

    def _expression(self, x: Any) -> str:
        """Write an argument of an operator as Python code."""
        if isinstance(x, Node):
            return self._names[x]
        if x is None or type(x) in (bool, int, str):
            return repr(x)
        if isinstance(x, (list, tuple)):  # operators refuse the list and tuple classes of fx
            inner = "".join(f"{self._expression(item)}, " for item in x)
            return f"[{inner}]" if isinstance(x, list) else f"({inner})"
        return self._bind(x)

    def _bind(self, x: Any) -> str:
        """Give a constant a global name, and return the name."""
        name = f"c{len(self._globals)}"
        self._globals[name] = x
        return name


def _values_unused_after(graph: Graph) -> dict[Node, list[Node]]:
    """Return for each node the values of operators that are used for the last time by it."""
    last_use: dict[Node, Node] = {}
    for node in graph.nodes:
        for x in (node, *node.all_input_nodes):
            last_use[x] = node
    unused: dict[Node, list[Node]] = {}
    for value, node in last_use.items():
        if node.op not in ("output", "placeholder") and value.op == "call_function":
            unused.setdefault(node, []).append(value)
    return unused


def graph_constants(module: GraphModule) -> Iterator[tuple[Node, Any]]:
    """Yield each node of a constant, and the constant, detached if it is a tensor."""
    for node in module.graph.find_nodes(op="get_attr"):
        yield node, get_attribute(module, str(node.target))


def get_attribute(module: Any, path: str) -> Any:
    """Return a constant of a graph, detached if it is a tensor."""
    for name in path.split("."):
        module = getattr(module, name)
    return module.detach() if isinstance(module, torch.Tensor) else module
