"""An observer of where a function stops gradients, and the flow of gradients in graphs.

NOTE [cuts]
Inside of an `autograd.Function`, gradients are cut for technical reasons too: `forward` records
nothing, and code in `backward` that takes a gradient starts from new leaves, made by
`x.detach().requires_grad_()`. A derivative continues through these. It stops where the user stops
it: at a `detach` without such a leaf, or at `torch.no_grad` in what is differentiated.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.modes import set_grad_enabled
from bridge._sources.torch.gradient_observer import REQUIRES_GRAD

_T: Any = torch.Tensor
DETACHING = {_T.detach, _T.detach_, torch.detach, _T.data.__get__}
COPYING = {torch.tensor, _T.new_tensor}
LEAVING = {_T.numpy, _T.item, _T.tolist, _T.__array__, _T.__float__, _T.__complex__, _T.__dlpack__}
_MAKING_LEAVES = {_T.requires_grad_, _T.requires_grad.__set__}


class GradientCuts(TorchFunctionMode):
    """Notes where a function cuts the graph of gradients: NOTE [cuts].

    Attributes:
        inputs: The arguments that gradients are taken by.
        backward: True while the backward of an `autograd.Function` runs.
        suspended: True if gradients were switched off in it, or taken without being recorded.
        left: True if it read the values of a float tensor, as for NumPy.
        stops: Tensors where the user stops derivatives, unless they continue through `leaves`.
        leaves: Tensors that the user takes gradients by.
    """

    backward = False
    suspended = False
    left = False

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.inputs = inputs
        self.stops: list[torch.Tensor] = []
        self.leaves: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and note what it does to gradients."""
        kwargs = kwargs or {}
        if func in _MAKING_LEAVES and (*args[1:], *kwargs.values(), True)[0]:
            self.leaves.append(args[0])
            self.suspended |= self.backward
        if func is set_grad_enabled and not args[0]:
            self.suspended |= self.backward
        if func in LEAVING and is_differentiable(args[0]):
            self.left |= self.backward
        if func == REQUIRES_GRAD and any(args[0] is x for x in self.inputs):
            return True  # as in a call by torch
        recorded = any(isinstance(x, torch.Tensor) and x.requires_grad for x in args)
        result = func(*args, **kwargs)
        if self._is_stop(func, args, recorded=recorded):
            if isinstance(result, torch.Tensor) and result is not args[0]:
                result = result.view_as(result)  # a node of its own
            outputs = result if isinstance(result, (list, tuple)) else [result]
            self.stops += [y for y in outputs if is_differentiable(y)]
        return result

    def _is_stop(self, func: Any, args: Sequence[Any], *, recorded: bool) -> bool:
        """Return True if the user stops gradients by this call of `func`."""
        if func in DETACHING or (func in COPYING and isinstance(args[0], torch.Tensor)):
            return self.backward or recorded
        return recorded and not torch.is_grad_enabled() and not _is_access(func)


def _is_access(func: Any) -> bool:
    return getattr(func, "__name__", "") in ("__get__", "__set__", "__delete__")


def is_differentiable(x: Any) -> bool:
    """Return True if `x` is a tensor that may have a gradient."""
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())


def carries_gradient(x: Any) -> bool:
    """Return True if `x` is a tensor that requires a gradient, but not a parameter."""
    return is_differentiable(x) and x.requires_grad and not isinstance(x, torch.nn.Parameter)


_aten: Any = torch.ops.aten
# Operators whose derivative is zero.
_PIECEWISE_CONSTANT = {
    *(_aten.sign.default, _aten.sgn.default, _aten.round.default, _aten.floor.default),
    *(_aten.ceil.default, _aten.trunc.default, _aten.zeros_like.default, _aten.ones_like.default),
    *(_aten.full_like.default, _aten.empty_like.default, _aten.new_zeros.default),
    *(_aten.new_ones.default, _aten.new_full.default, _aten.new_empty.default),
}


def dependent_nodes(graph: Graph, sources: Iterable[Node], cuts: Sequence[Node] = ()) -> set[Node]:
    """Return the values with a derivative by those of `sources`, except through `cuts`."""
    dependent = set(sources)
    for node in graph.nodes:
        if node.op != "call_function" or node.target in _PIECEWISE_CONSTANT or node in cuts:
            continue
        if _has_differentiable_output(node) and dependent.intersection(node.all_input_nodes):
            dependent.add(node)
    return dependent


def _has_differentiable_output(node: Node) -> bool:
    value = node.meta.get("val")
    return any(map(is_differentiable, value if isinstance(value, (tuple, list)) else [value]))


def stops_matter(
    graph: Graph,
    inputs: Iterable[Node],
    stops: Sequence[Node],
    outputs: Sequence[Node],
    leaves: Sequence[Node] = (),
) -> bool:
    """Return True if derivatives of `outputs` by `inputs` go through one of `stops`.

    Derivatives that continue through one of the `leaves` do not count.
    """
    dependent = dependent_nodes(graph, filter(_has_differentiable_output, inputs))
    stopped = dependent.intersection(stops).difference(leaves)
    return not dependent_nodes(graph, stopped, leaves).isdisjoint(outputs)
