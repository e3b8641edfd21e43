"""Forward/backward pairs of functions that are rerun: the forward saves its autograd graph.

NOTE [saved graphs]
A caller can save arrays only, and an autograd graph is no array. So the forward saves its graph in
a store, and returns its number. Nobody says when a graph can be freed: the store has the newest
unused graphs, and of the used ones the last. Without its graph, the backward reruns the function.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._core.errors import NoRuleError
from bridge._core.op import ForwardBackward, Op, Positions, Rules, Specs, Traits
from bridge._core.pytree import scatter
from bridge._core.spec import ArraySpec, check_specs_unchanged
from bridge._sources.torch.autodiff.transforms import ACCUMULATES, take_gradients
from bridge._sources.torch.batching.loop_vmap import loop_op
from bridge._sources.torch.batching.rng_consistency import random_gradient_error
from bridge._sources.torch.capture.environment import (
    Fun,
    default_state,
    fork_generators,
    generator_states,
    with_seed,
)
from bridge._sources.torch.capture.trace import contiguous_copy
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.replaced_tensors import backward_setup

_MOST_GRAPHS = 256
_NUMBER = ArraySpec((), "int32")


@dataclasses.dataclass(frozen=True)
class _Graph:
    """An autograd graph.

    Attributes:
        inputs: The arguments that derivatives are taken by.
        outputs: The results.
        setup: Called before the backward pass, which may read a module.
        rng_states: The states of generators, from which the backward pass may draw.
    """

    inputs: Sequence[torch.Tensor]
    outputs: Sequence[torch.Tensor]
    setup: Callable[[], None] | None
    rng_states: Sequence[torch.Tensor]


class _GraphStore:
    """The graphs that are saved: NOTE [saved graphs]."""

    def __init__(self) -> None:
        self._unused: collections.OrderedDict[int, _Graph] = collections.OrderedDict()
        self._used: tuple[int, _Graph] | None = None
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def save(self, graph: _Graph) -> int:
        """Save a graph, and return its number."""
        with self._lock:
            number = next(self._numbers) % 2**31
            self._unused[number] = graph
            while len(self._unused) > _MOST_GRAPHS:
                self._unused.popitem(last=False)
        return number

    def find(self, number: int) -> _Graph | None:
        """Return the graph of this number, if it is still saved."""
        with self._lock:
            graph = self._unused.pop(number, None)
            if graph is not None:
                self._used = number, graph
            return self._used[1] if self._used and self._used[0] == number else None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GraphSavingDerivative:
    """A first derivative by saved autograd graphs.

    Attributes:
        fun: The function.
        name: The name of the function.
        primals: The specs of its arguments.
        outputs: The specs of its outputs.
        settings: The settings of the user's function.
        argnums: Positions of the arguments that derivatives are taken by.
        recompute_vjp: `(argnums, outnums) -> Op`, the gradients by a rerun, for a lost graph.
        store: The saved graphs.
    """

    fun: Fun
    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    argnums: Positions
    recompute_vjp: Callable[[Positions, Positions], Op]
    store: _GraphStore = dataclasses.field(default_factory=_GraphStore)

    def forward_backward(self, outnums: Positions) -> ForwardBackward:
        """Make the pair for cotangents of the outputs at `outnums`, or of some of them."""
        backward = functools.cache(self._make_backward)  # the same arguments give the same Op
        return ForwardBackward(
            strategy="save",
            forward=self._make_op("forward", self._make_forward(), (*self.outputs, _NUMBER)),
            backward=lambda argnums: backward(argnums, outnums),
            output_count=len(self.outputs),
            saved_primals=tuple(range(len(self.primals))),
            saved_outputs=(),
            backward_from=backward,
        )

    def _make_op(self, half: str, call: Callable[..., Any], outputs: Specs) -> Op:
        op = Op(
            name=f"{self.name}.{half}",
            framework="torch",
            call=call,
            output_specs=lambda *_: outputs,
            rules=Rules(vmap=lambda axes, size: loop_op(op, axes, size)),
            traits=Traits(reruns=True),
        )
        return op

    def _make_forward(self) -> Callable[..., Any]:
        """Make the call of the forward: the outputs, then the number of the graph."""

        def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with default_state(self.settings.dtype), torch.enable_grad():
                copies = [x.detach().clone() for x in xs]
                free = [copies[i].requires_grad_() for i in self.argnums]
                outputs = list(self.fun(*scatter(free, self.argnums, copies)))
                values = [contiguous_copy(y.detach()) for y in outputs]
                setup = backward_setup()
            check_specs_unchanged([*map(ARRAYS.spec, values)], self.outputs, self.name)
            number = self.store.save(_Graph(free, outputs, setup, generator_states(xs)))
            return (*values, torch.tensor(number, dtype=torch.int32))

        return (
            call
            if self.settings.seed_argnum is None
            else with_seed(call, self.settings.seed_argnum)
        )

    def _make_backward(self, argnums: Positions, outnums: Positions) -> Op:
        """Make the backward, from primals, the number of the graph and cotangents."""
        count = len(self.primals)
        specs = tuple(self.primals[i] for i in argnums)

        def call(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cotangents = [c.detach().clone() for c in args[count + 1 :]]
            graph = self.store.find(int(args[count]))
            if graph is None or not all(graph.outputs[i].requires_grad for i in outnums):
                return self.recompute_vjp(argnums, outnums).call(*args[:count], *cotangents)
            inputs = [graph.inputs[self.argnums.index(i)] for i in argnums]
            outputs = [graph.outputs[i] for i in outnums]
            with (
                default_state(self.settings.dtype),
                torch.enable_grad(),
                self._continue_rng(args[:count], graph),
            ):
                if graph.setup:
                    graph.setup()
                gradients = take_gradients(
                    outputs, inputs, cotangents, create_graph=False, retain_graph=True
                )
                copies = [contiguous_copy(g.detach()) for g in gradients]
            if any(x.grad is not None for x in inputs):
                raise NoRuleError(ACCUMULATES)
            check_specs_unchanged([*map(ARRAYS.spec, copies)], specs, f"{self.name}.backward")
            return tuple(copies)

        return self._make_op("backward", call, specs)

    @contextlib.contextmanager
    def _continue_rng(self, xs: Sequence[torch.Tensor], graph: _Graph) -> Generator[None]:
        """Let the backward continue the random numbers of the forward; raise if it has no seed."""
        with fork_generators(xs) as generators:
            for generator, state in zip(generators, graph.rng_states, strict=True):
                generator.set_state(state)
            yield
            now = generator_states(xs)
            if self.settings.seed_argnum is None and not all(
                map(torch.equal, graph.rng_states, now)
            ):
                raise random_gradient_error(self.name)


def can_save_graph(function: Any) -> bool:
    """Return True if a function is rerun, and its forward can save an autograd graph."""
    derived = function.strategy is not None or function.computes_custom_gradients
    unseeded = function.uses_rng and function.settings.seed_argnum is None
    return not function.program and not derived and not unseeded


def make_graph_saving_derivative(function: Any, argnums: Positions) -> GraphSavingDerivative:
    """Make the derivative of such a function by its arguments at `argnums`."""
    return GraphSavingDerivative(
        fun=function.fun,
        name=function.name,
        primals=function.primals,
        outputs=function.outputs,
        settings=function.settings,
        argnums=argnums,
        recompute_vjp=functools.cache(
            lambda argnums, outnums: function.vjp(argnums, outnums).make_op()
        ),
    )
