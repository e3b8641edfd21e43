"""An `autograd.Function` as two graphs: of its values, and of its gradient."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.autograd.function import FunctionCtx
from torch.fx import Node

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._core.pytree import replace_at
from bridge._sources.torch.autodiff.function_calls import intercept_apply, takes_context
from bridge._sources.torch.autodiff.gradient_flow import (
    GradientCuts,
    carries_gradient,
    is_differentiable,
    stops_matter,
)
from bridge._sources.torch.capture.graph import has_side_effect, results
from bridge._sources.torch.capture.trace import make_program, trace
from bridge._sources.torch.program import Program, Settings

_WRONG = torch.ops.aten.as_strided_scatter.default
_KEPT = "its backward uses what its forward computed besides its results"
_SUSPENDED = (
    "its backward computes where torch records nothing, as in once_differentiable, in "
    "torch.no_grad or in a gradient of its own"
)
_LEFT = "its backward leaves torch, as by NumPy or .item()"


class Context(FunctionCtx):
    """The `ctx` of an `autograd.Function` that runs outside of autograd."""

    to_save: tuple[Any, ...] = ()
    dirty_tensors: tuple[Any, ...] = ()
    non_differentiable: tuple[Any, ...] = ()
    materialize_grads = True
    saved_tensors: tuple[Any, ...] = ()

    def __init__(self, needs: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs)

    def saved_values(self) -> Iterator[torch.Tensor]:
        """The tensors it holds, also in closures."""
        waiting: list[Any] = [vars(self)]
        for x in waiting:
            waiting += [y for y in pytree.tree_leaves(x) if y is not x]
            if callable(x):
                waiting += [cell.cell_contents for cell in getattr(x, "__closure__", None) or ()]
        return (x for x in waiting if isinstance(x, torch.Tensor))

    def hand_over(self, outputs: dict[int, torch.Tensor]) -> None:
        """Let `backward` see these tensors for the results that were kept."""
        self.saved_tensors = tuple(outputs.get(id(x), x) for x in self.to_save)
        for key, x in list(vars(self).items()):
            if id(x) in outputs:
                setattr(self, key, outputs[id(x)])


@dataclasses.dataclass
class Notes:
    """What tells whether a `backward` can be differentiated.

    Attributes:
        closed: Why torch cannot differentiate its code, if it cannot.
        unsound: Why the graph of it cannot be differentiated instead, if it cannot.
    """

    closed: str | None = None
    unsound: str | None = None


class FunctionGraphs:
    """A call of an `autograd.Function`, whose tensors matter by their shapes and dtypes only."""

    def __init__(self, cls: Any, args: tuple[Any, ...], settings: Settings) -> None:
        self.cls, self.name = cls, cls.__name__
        self.settings = dataclasses.replace(
            settings, capture="require", seed=None, exports_graph=False
        )
        self.needs = [isinstance(x, torch.Tensor) and x.requires_grad for x in args]
        self.at = tuple(i for i, x in enumerate(args) if isinstance(x, torch.Tensor))
        self.primals = tuple(ARRAYS.spec(args[i].detach()) for i in self.at)
        self.args = [None if isinstance(x, torch.Tensor) else x for x in args]
        self.single = False  # whether the result is no tuple
        self.results: list[Any] = []  # as the user returned them, last
        self.fixed: tuple[int, ...] = ()  # of the results that are tensors, those without gradients

    def forward(self, context: Context, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The results that are tensors, computed as torch does."""
        args = replace_at(xs, self.at, self.args)
        with torch.no_grad():
            if takes_context(self.cls):
                outputs = self.cls.forward(context, *args)
            else:
                outputs = self.cls.forward(*args)
                self.cls.setup_context(context, tuple(args), outputs)
        self.single = not isinstance(outputs, tuple)
        self.results = [outputs] if self.single else list(outputs)
        tensors = [y for y in self.results if isinstance(y, torch.Tensor)]
        constant = {id(x) for x in context.non_differentiable}
        self.fixed = tuple(
            i for i, y in enumerate(tensors) if id(y) in constant or not is_differentiable(y)
        )
        return tensors

    @functools.cached_property
    def values(self) -> Program:
        """The results as a graph."""
        fun = lambda *xs: self.forward(Context(self.needs), xs)
        return trace(fun, self.primals, name=self.name, settings=self.settings)

    @functools.cached_property
    def gradient(self) -> "tuple[Program, Backward]":
        """Gradients from arguments, results and their cotangents, as a graph."""
        outputs = self.values.outputs
        backward = Backward(self)
        specs = (*self.primals, *outputs, *outputs)
        whole = trace(backward, specs, name=self.name, settings=self.settings)
        graph = whole.module.graph
        row, count = results(graph), len(backward.at)
        graph.output_node().args = (tuple(row[:count]),)
        sources = [_source(x) for x in row]
        ends, (kept, stops, leaves) = sources[:count], _parts(sources[count:], backward.counts)
        resting = [i for i, at in enumerate(self.at) if not self.needs[at]]
        inputs = enumerate(graph.find_nodes(op="placeholder"))
        moving = [x for i, x in inputs if i not in resting]
        if stops_matter(graph, moving, kept, ends):
            backward.notes.closed = _KEPT
        if stops_matter(graph, moving, stops, ends, leaves):
            backward.notes.unsound = "a detach or torch.no_grad stands in its backward"
        graph.eliminate_dead_code(has_side_effect)
        found = make_program(whole.module)
        if found.uses_rng:
            backward.notes.unsound = "it draws random numbers"
        if found.module.graph.find_nodes(op="call_function", target=_WRONG):
            backward.notes.unsound = "torch has the gradient of as_strided_scatter wrong"
        if any(map(carries_gradient, _constants(found))):
            backward.notes.unsound = "it uses a tensor with a gradient that is no argument of it"
        return found, backward

    def observe(self, xs: Sequence[torch.Tensor]) -> Notes:
        """What can be said of it by running it on these tensors."""
        outputs = self.forward(Context(self.needs), xs)
        backward = Backward(self)
        backward(*xs, *(y.clone() for y in outputs), *(y.clone() for y in outputs))
        if backward.counts[0]:
            backward.notes.closed = _KEPT
        return backward.notes


def _parts(row: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    ends = list(itertools.accumulate(counts))
    return [row[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _source(result: Node) -> Node:
    """The value that a graph returns a copy of."""
    copied = result.target is torch.ops.aten.clone.default
    return result.all_input_nodes[0] if copied else result


def _constants(program: Program) -> Iterator[Any]:
    """What a graph refers to, with the gradients it may require."""
    for node in program.module.graph.find_nodes(op="get_attr"):
        yield functools.reduce(getattr, str(node.target).split("."), program.module)


class Backward:
    """The gradient of a pair, called with its arguments, its results and their cotangents.

    Its results are the gradients, what was kept besides arguments and results, and the tensors
    where the user stops derivatives or takes some: NOTE [cuts].

    Attributes:
        at: Positions of the arguments that have gradients.
        counts: How many tensors there are of each of the others.
        notes: What was noted.
    """

    def __init__(self, pair: FunctionGraphs) -> None:
        self.pair = pair
        self.at: list[int] = []
        self.counts = 0, 0, 0
        self.notes = Notes()

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        pair, count = self.pair, len(self.pair.primals)
        middle = (count + len(tensors)) // 2
        xs, outputs, cotangents = tensors[:count], tensors[count:middle], tensors[middle:]
        context = Context(pair.needs)
        self.notes = Notes()
        moving = [x for x, i in zip(xs, pair.at, strict=True) if pair.needs[i]]
        with GradientCuts(moving) as cuts, intercept_apply(self._apply, observes=True):
            ys = pair.forward(context, xs)
            replaced = {
                id(y): outputs[i]
                for i, y in enumerate(ys)
                if i not in pair.fixed and not any(y is x for x in xs)
            }
            known = {*replaced, *map(id, xs)}
            kept = [
                x for x in context.saved_values() if is_differentiable(x) and id(x) not in known
            ]
            context.hand_over(replaced)
            row = self._cotangents(cotangents, materialized=context.materialize_grads)
            cuts.backward = True
            with torch.enable_grad():
                gradients = pair.cls.backward(context, *row)
        if context.dirty_tensors:
            self.notes.unsound = "it changes an argument in place"
        if cuts.suspended or cuts.left:
            self.notes.closed = _LEFT if cuts.left else _SUSPENDED
        self.counts = len(kept), len(cuts.stops), len(cuts.leaves)
        return [*self._wanted(gradients), *kept, *cuts.stops, *cuts.leaves]

    def _apply(self, cls: Any, args: Any, apply: Any) -> Any:
        self.notes.unsound = f"it calls another autograd.Function, {cls.__name__}"
        return apply(*args)

    def _cotangents(self, given: Sequence[torch.Tensor], *, materialized: bool) -> list[Any]:
        """One for each result."""
        smooth = [
            c if i not in self.pair.fixed else torch.zeros_like(c) if materialized else None
            for i, c in enumerate(given)
        ]
        each = iter(smooth)
        return [next(each) if isinstance(y, torch.Tensor) else None for y in self.pair.results]

    def _wanted(self, gradients: Any) -> list[torch.Tensor]:
        """Those of arguments that need one."""
        row = list(gradients) if isinstance(gradients, tuple) else [gradients]
        pairs = enumerate(zip(row, self.pair.needs, strict=False))
        self.at = [i for i, (g, need) in pairs if need and isinstance(g, torch.Tensor)]
        return [row[i] for i in self.at]
