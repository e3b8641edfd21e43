"""Captured graphs as straight Python code.

torch's own code of a graph looks each operator up on each call, by four attributes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bridge._sources.torch.capture.graph import results
from bridge._sources.torch.code.out_variants import OutVariant, find_out_variants
from bridge._sources.torch.internals import raw_operator

Run = Callable[..., tuple[torch.Tensor, ...]]


def compile_graph(module: GraphModule) -> Run:
    """The function that the graph of `module` computes."""
    return _CodeWriter(module, {}, []).function()


def compile_graph_into(module: GraphModule) -> Run:
    """The same with tensors for the results before the others: NOTE [written in place].

    A result that can be is written there, and returned as the tensor that was handed in.
    """
    outs = [f"out{i}" for i, _ in enumerate(results(module.graph))]
    return _CodeWriter(module, find_out_variants(module.graph), outs).function()


class _CodeWriter:
    """Lines of Python, one for each operator; results at their `places` are called `outs`."""

    def __init__(
        self, module: GraphModule, places: Mapping[Node, OutVariant], outs: Sequence[str]
    ) -> None:
        self._module, self._places, self._outs = module, places, outs
        self._last = _last_uses(module.graph)
        self._parameters = list(outs)
        self._lines: list[str] = []
        self._names: dict[Node, str] = {}
        self._bound: dict[str, Any] = {}  # what the lines speak of
        for node in module.graph.nodes:
            self._add(node)

    def _add(self, node: Node) -> None:
        """One more node, and the end of the values that nobody needs after it."""
        name = self._names[node] = f"v{len(self._names)}"
        if node.op == "placeholder":
            self._parameters.append(name)
        elif node.op == "get_attr":
            self._bound[name] = get_attribute(self._module, str(node.target))
        elif node.op == "output":
            row = [self._text(x) for x in results(node.graph)]
            for place in self._places.values():
                row[place.position] = self._outs[place.position]
            self._lines.append(f"return ({''.join(f'{x}, ' for x in row)})")
        else:
            self._lines.append(f"{name} = {self._call(node)}")
        self._lines += [f"del {self._names[x]}" for x in self._last.get(node, ())]

    def _call(self, node: Node) -> str:
        place, target = self._places.get(node), node.target
        given = [self._text(x) for x in node.args]
        given += [f"{key}={self._text(x)}" for key, x in node.kwargs.items()]
        if place:
            out = self._outs[place.position]
            if place.variant is None:
                return f"{out}.copy_({given[0]})"
            given.append(f"out={out}.view({self._text(place.shape)})")
            target = place.variant
        return f"{self._constant(raw_operator(target))}({', '.join(given)})"

    def function(self) -> Run:
        """All lines as a function."""
        body = "\n    ".join(self._lines)
        exec(f"def run({', '.join(self._parameters)}):\n    {body}", self._bound)
        return self._bound["run"]

    def _text(self, x: Any) -> str:
        if isinstance(x, Node):
            return self._names[x]
        if x is None or type(x) in (bool, int, str):
            return repr(x)
        if isinstance(x, (list, tuple)):  # those of fx are of classes that operators do not take
            inner = "".join(f"{self._text(item)}, " for item in x)
            return f"[{inner}]" if isinstance(x, list) else f"({inner})"
        return self._constant(x)

    def _constant(self, x: Any) -> str:
        name = f"c{len(self._bound)}"
        self._bound[name] = x
        return name


def _last_uses(graph: Graph) -> dict[Node, list[Node]]:
    """For each node the values that nobody needs after it."""
    last: dict[Node, Node] = {}
    for node in graph.nodes:
        for x in (node, *node.all_input_nodes):
            last[x] = node
    found: dict[Node, list[Node]] = {}
    for value, node in last.items():
        if node.op not in ("output", "placeholder") and value.op == "call_function":
            found.setdefault(node, []).append(value)
    return found


def get_attribute(module: Any, path: str) -> Any:
    """A constant of a graph, without the gradient it may require."""
    for name in path.split("."):
        module = getattr(module, name)
    return module.detach() if isinstance(module, torch.Tensor) else module
