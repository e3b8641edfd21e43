"""Two graphs of an `autograd.Function`: of its values, and of its gradient."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.fx import Graph, Node

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._core.holder import EMPTY
from bridge._core.pytree import scatter
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
_SAVED = "its backward uses what its forward computed besides its results"
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

    def __init__(self, needs_grad: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(needs_grad)

    def saved_values(self) -> Iterator[torch.Tensor]:
        """Return the tensors that it holds, also in closures."""
        queue: list[Any] = [vars(self)]
        for x in queue:
            queue += [y for y in pytree.tree_leaves(x) if y is not x]
            if callable(x):
                cells = getattr(x, "__closure__", None) or ()
                queue += [cell.cell_contents for cell in cells if cell != EMPTY]
        return (x for x in queue if isinstance(x, torch.Tensor))

    def replace_saved(self, replacements_by_id: dict[int, torch.Tensor]) -> None:
        """Let `backward` see other tensors in the place of saved ones with these ids."""
        self.saved_tensors = tuple(replacements_by_id.get(id(x), x) for x in self.to_save)
        for key, x in list(vars(self).items()):
            if id(x) in replacements_by_id:
                setattr(self, key, replacements_by_id[id(x)])


@dataclasses.dataclass
class Obstacles:
    """Why a `backward` cannot be differentiated.

    Attributes:
        code: Why torch cannot differentiate its code, if it cannot.
        graph: Why its graph cannot be differentiated instead, if it cannot.
    """

    code: str | None = None
    graph: str | None = None


class FunctionGraphs:
    """The graphs of a Function for arguments with the shapes and dtypes of `args`.

    Attributes:
        needs_grad: For each argument, True if it requires a gradient.
        argnums: The positions of the arguments that are tensors.
        primals: The specs of these tensors.
        args: The arguments, `None` for each tensor.
        results: The results of the last run, as the user returned them.
        is_single: True if the result is not a tuple.
        non_differentiable: Of the results that are tensors, the positions without a gradient.
    """

    def __init__(self, cls: Any, args: tuple[Any, ...], settings: Settings) -> None:
        self.cls, self.name = cls, cls.__name__
        self.settings = dataclasses.replace(
            settings, capture="require", seed_argnum=None, exports_graph=False
        )
        self.needs_grad = [isinstance(x, torch.Tensor) and x.requires_grad for x in args]
        self.argnums = tuple(i for i, x in enumerate(args) if isinstance(x, torch.Tensor))
        self.primals = tuple(ARRAYS.spec(args[i].detach()) for i in self.argnums)
        self.args = [None if isinstance(x, torch.Tensor) else x for x in args]
        self.is_single = False
        self.results: list[Any] = []
        self.non_differentiable: tuple[int, ...] = ()

    def forward(self, context: Context, xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Call the Function's `forward` as torch does; return the results that are tensors."""
        args = scatter(xs, self.argnums, self.args)
        with torch.no_grad():
            if takes_context(self.cls):
                outputs = self.cls.forward(context, *args)
            else:
                outputs = self.cls.forward(*args)
                self.cls.setup_context(context, tuple(args), outputs)
        self.is_single = not isinstance(outputs, tuple)
        self.results = [outputs] if self.is_single else list(outputs)
        tensors = [y for y in self.results if isinstance(y, torch.Tensor)]
        constant = {id(x) for x in context.non_differentiable}
        self.non_differentiable = tuple(
            i for i, y in enumerate(tensors) if id(y) in constant or not is_differentiable(y)
        )
        return tensors

    @functools.cached_property
    def values(self) -> Program:
        """The graph from arguments to results."""
        fun = lambda *xs: self.forward(Context(self.needs_grad), xs)
        return trace(fun, self.primals, name=self.name, settings=self.settings)

    @functools.cached_property
    def gradient(self) -> "tuple[Program, Backward]":
        """The graph from arguments, results and their cotangents to gradients."""
        outputs = self.values.outputs
        backward = Backward(self)
        specs = (*self.primals, *outputs, *outputs)
        traced = trace(backward, specs, name=self.name, settings=self.settings)
        graph = traced.module.graph
        tensors, count = results(graph), len(backward.argnums)
        graph.output_node().args = (tuple(tensors[:count]),)
        sources = [_without_clone(x) for x in tensors]
        self._check_flow(backward, graph, sources[:count], sources[count:])
        graph.eliminate_dead_code(has_side_effect)
        program = make_program(traced.module)
        if program.uses_rng:
            backward.obstacles.graph = "it draws random numbers"
        if program.module.graph.find_nodes(op="call_function", target=_WRONG):
            backward.obstacles.graph = "torch has the gradient of as_strided_scatter wrong"
        if any(map(carries_gradient, _constants(program))):
            backward.obstacles.graph = "it uses a tensor with a gradient that is no argument of it"
        return program, backward

    def _check_flow(
        self, backward: "Backward", graph: Graph, gradients: Sequence[Node], others: Sequence[Node]
    ) -> None:
        """Note the obstacles to derivatives of `gradients` in the graph of `backward`."""
        saved, stops, leaves = _split(others, backward.counts)
        constant = [i for i, argnum in enumerate(self.argnums) if not self.needs_grad[argnum]]
        placeholders = enumerate(graph.find_nodes(op="placeholder"))
        inputs = [x for i, x in placeholders if i not in constant]
        if stops_matter(graph, inputs, saved, gradients):
            backward.obstacles.code = _SAVED
        if stops_matter(graph, inputs, stops, gradients, leaves):
            backward.obstacles.graph = "a detach or torch.no_grad stands in its backward"

    def observe(self, xs: Sequence[torch.Tensor]) -> Obstacles:
        """Run the Function and its backward on `xs`; return the obstacles that were noted."""
        outputs = self.forward(Context(self.needs_grad), xs)
        backward = Backward(self)
        backward(*xs, *(y.clone() for y in outputs), *(y.clone() for y in outputs))
        if backward.counts[0]:
            backward.obstacles.code = _SAVED
        return backward.obstacles


def _split(values: Sequence[Any], counts: Sequence[int]) -> list[Sequence[Any]]:
    """Split `values` into parts of these lengths."""
    ends = list(itertools.accumulate(counts))
    return [values[end - count : end] for count, end in zip(counts, ends, strict=True)]


def _without_clone(result: Node) -> Node:
    """Return the value that a graph returns a copy of."""
    is_clone = result.target is torch.ops.aten.clone.default
    return result.all_input_nodes[0] if is_clone else result


def _constants(program: Program) -> Iterator[Any]:
    """Yield the constants of a graph, not detached."""
    for node in program.module.graph.find_nodes(op="get_attr"):
        yield functools.reduce(getattr, str(node.target).split("."), program.module)


class Backward:
    """The gradient of a Function, as a function of arguments, results and their cotangents.

    It returns the gradients, the tensors saved besides arguments and results, and the tensors where
    the user stops derivatives or takes some: NOTE [cuts].

    Attributes:
        argnums: Positions of the arguments that have gradients.
        counts: How many of the returned tensors were saved, are stops and are leaves.
        obstacles: The obstacles that were noted.
    """

    def __init__(self, graphs: FunctionGraphs) -> None:
        self._graphs = graphs
        self.argnums: list[int] = []
        self.counts = 0, 0, 0
        self.obstacles = Obstacles()

    def __call__(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        graphs, count = self._graphs, len(self._graphs.primals)
        middle = (count + len(tensors)) // 2
        xs, outputs, cotangents = tensors[:count], tensors[count:middle], tensors[middle:]
        context = Context(graphs.needs_grad)
        self.obstacles = Obstacles()
        inputs = [x for x, i in zip(xs, graphs.argnums, strict=True) if graphs.needs_grad[i]]
        with GradientCuts(inputs) as cuts, intercept_apply(self._note_function, observes=True):
            ys = graphs.forward(context, xs)
            replaced = {
                id(y): outputs[i]
                for i, y in enumerate(ys)
                if i not in graphs.non_differentiable and not any(y is x for x in xs)
            }
            known = {*replaced, *map(id, xs)}
            values = context.saved_values()
            saved = [x for x in values if is_differentiable(x) and id(x) not in known]
            context.replace_saved(replaced)
            materialize = context.materialize_grads
            all_cotangents = self._for_all_results(cotangents, materialize=materialize)
            cuts.backward = True
            with torch.enable_grad():
                gradients = graphs.cls.backward(context, *all_cotangents)
        if context.dirty_tensors:
            self.obstacles.graph = "it changes an argument in place"
        if cuts.suspended or cuts.left:
            self.obstacles.code = _LEFT if cuts.left else _SUSPENDED
        self.counts = len(saved), len(cuts.stops), len(cuts.leaves)
        return [*self._select_needed_gradients(gradients), *saved, *cuts.stops, *cuts.leaves]

    def _note_function(self, cls: Any, args: Any, apply: Any) -> Any:
        """Note another Function that is called within this one, and call it."""
        self.obstacles.graph = f"it calls another autograd.Function, {cls.__name__}"
        return apply(*args)

    def _for_all_results(
        self, cotangents: Sequence[torch.Tensor], *, materialize: bool
    ) -> list[Any]:
        """Return a cotangent for each result: `None`, or zeros, where it has no gradient."""
        constant = self._graphs.non_differentiable
        of_tensors = iter(
            [
                c if i not in constant else torch.zeros_like(c) if materialize else None
                for i, c in enumerate(cotangents)
            ]
        )
        is_tensor = [isinstance(y, torch.Tensor) for y in self._graphs.results]
        return [next(of_tensors) if present else None for present in is_tensor]

    def _select_needed_gradients(self, gradients: Any) -> list[torch.Tensor]:
        """Return the gradients of arguments that need one, and note their positions."""
        gradients = list(gradients) if isinstance(gradients, tuple) else [gradients]
        pairs = enumerate(zip(gradients, self._graphs.needs_grad, strict=False))
        self.argnums = [i for i, (g, need) in pairs if need and isinstance(g, torch.Tensor)]
        return [gradients[i] for i in self.argnums]
