"""Where a function cuts the graph of gradients by itself, as it is executed.

NOTE [cuts]
Inside of an `autograd.Function` much is cut off for no other reason than how torch works: `forward`
records nothing, and code that takes a gradient in `backward` starts from tensors made anew, by
`x.detach().requires_grad_()`. A derivative goes on through these. It stops where the user stops it,
by a `detach` that nothing of the kind follows, or by `torch.no_grad` in what is differentiated.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.overrides import TorchFunctionMode

from bridge._sources.torch.internals import set_grad_enabled

_T: Any = torch.Tensor
DETACHING = {_T.detach, _T.detach_, torch.detach, _T.data.__get__}
COPYING = {torch.tensor, _T.new_tensor}
LEAVING = {_T.numpy, _T.item, _T.tolist, _T.__array__, _T.__float__, _T.__complex__, _T.__dlpack__}
_REQUIRES_GRAD = _T.requires_grad.__get__
_MAKING_LEAVES = {_T.requires_grad_, _T.requires_grad.__set__}


class GradientCuts(TorchFunctionMode):
    """Notes where a function cuts the graph of gradients: NOTE [cuts].

    Attributes:
        moving: The arguments that gradients are wanted of.
        backward: Whether the backward of an `autograd.Function` is what runs.
        suspended: Whether gradients were switched off in it, or taken without being recorded.
        left: Whether it read the values of a float tensor by itself, as NumPy does.
        stops: Tensors behind which the user wants no derivative, unless it goes through `leaves`.
        leaves: Tensors that the user takes gradients by.
    """

    backward = False
    suspended = False
    left = False

    def __init__(self, moving: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.moving = moving
        self.stops: list[torch.Tensor] = []
        self.leaves: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, looked at."""
        kwargs = kwargs or {}
        if func in _MAKING_LEAVES and (*args[1:], *kwargs.values(), True)[0]:
            self.leaves.append(args[0])
            self.suspended |= self.backward
        if func is set_grad_enabled and not args[0]:
            self.suspended |= self.backward
        if func in LEAVING and is_differentiable(args[0]):
            self.left |= self.backward
        if func == _REQUIRES_GRAD and any(args[0] is x for x in self.moving):
            return True  # to torch it does
        recorded = any(isinstance(x, torch.Tensor) and x.requires_grad for x in args)
        found = func(*args, **kwargs)
        if self._stopped(func, args, recorded=recorded):
            if isinstance(found, torch.Tensor) and found is not args[0]:
                found = found.view_as(found)  # a node of its own
            row = found if isinstance(found, (list, tuple)) else [found]
            self.stops += [y for y in row if is_differentiable(y)]
        return found

    def _stopped(self, func: Any, args: Sequence[Any], *, recorded: bool) -> bool:
        """Whether the user let `func` cut off what it was called with."""
        if func in DETACHING or (func in COPYING and isinstance(args[0], torch.Tensor)):
            return self.backward or recorded
        return recorded and not torch.is_grad_enabled() and not _is_access(func)


def _is_access(func: Any) -> bool:
    return getattr(func, "__name__", "") in ("__get__", "__set__", "__delete__")


def is_differentiable(x: Any) -> bool:
    """Whether `x` is a tensor that may have a gradient."""
    return isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex())


def carries_gradient(x: Any) -> bool:
    """Whether `x` is a tensor that a derivative may be taken by, and no parameter of the user's."""
    return is_differentiable(x) and x.requires_grad and not isinstance(x, torch.nn.Parameter)


_aten: Any = torch.ops.aten
_STEPS = {
    *(_aten.sign.default, _aten.sgn.default, _aten.round.default, _aten.floor.default),
    *(_aten.ceil.default, _aten.trunc.default, _aten.zeros_like.default, _aten.ones_like.default),
    *(_aten.full_like.default, _aten.empty_like.default, _aten.new_zeros.default),
    *(_aten.new_ones.default, _aten.new_full.default, _aten.new_empty.default),
}


def flow_nodes(graph: Graph, sources: Iterable[Node], ends: Sequence[Node] = ()) -> set[Node]:
    """The values of a graph through which derivatives by those of `sources` go, up to `ends`."""
    reached = set(sources)
    for node in graph.nodes:
        if node.op == "call_function" and node.target not in _STEPS and _carries(node):
            if node in ends:
                continue
            if reached.intersection(node.all_input_nodes):
                reached.add(node)
    return reached


def _carries(node: Node) -> bool:
    value = node.meta.get("val")
    return any(map(is_differentiable, value if isinstance(value, (tuple, list)) else [value]))


def stops_matter(
    graph: Graph,
    moving: Iterable[Node],
    stops: Sequence[Node],
    ends: Sequence[Node],
    leaves: Sequence[Node] = (),
) -> bool:
    """Whether derivatives of `ends` by what is `moving` go through one of `stops`.

    Those that go on through one of the `leaves` do not count.
    """
    reached = flow_nodes(graph, filter(_carries, moving)).intersection(stops).difference(leaves)
    return not flow_nodes(graph, reached, leaves).isdisjoint(ends)
