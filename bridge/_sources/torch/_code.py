"""Captured graphs as straight Python code.

torch's own code of a graph looks each operator up on each call, by four attributes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from bridge._sources.torch._graph import results
from bridge._sources.torch._internals import direct


def compiled(module: GraphModule) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The function that the graph of `module` computes."""
    code = _Code(module)
    for node in module.graph.nodes:
        code.add(node)
    return code.function()


class _Code:
    """Lines of Python, one for each operator."""

    def __init__(self, module: GraphModule) -> None:
        self._module = module
        self._last = _last_uses(module.graph)
        self._parameters: list[str] = []
        self._lines: list[str] = []
        self._names: dict[Node, str] = {}
        self._bound: dict[str, Any] = {}  # what the lines speak of

    def add(self, node: Node) -> None:
        """One more node, and the end of the values that nobody needs after it."""
        name = self._names[node] = f"v{len(self._names)}"
        if node.op == "placeholder":
            self._parameters.append(name)
        elif node.op == "get_attr":
            self._bound[name] = attribute(self._module, str(node.target))
        elif node.op == "output":
            self._lines.append(f"return {self._text(tuple(results(node.graph)))}")
        else:
            given = [self._text(x) for x in node.args]
            given += [f"{key}={self._text(x)}" for key, x in node.kwargs.items()]
            self._lines.append(
                f"{name} = {self._constant(direct(node.target))}({', '.join(given)})"
            )
        self._lines += [f"del {self._names[x]}" for x in self._last.get(node, ())]

    def function(self) -> Callable[..., tuple[torch.Tensor, ...]]:
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


def attribute(module: Any, path: str) -> Any:
    """A constant of a graph, without the gradient it may require."""
    for name in path.split("."):
        module = getattr(module, name)
    return module.detach() if isinstance(module, torch.Tensor) else module
