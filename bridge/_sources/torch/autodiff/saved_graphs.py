"""The first derivative of a function that runs anew, by a graph of torch that the call keeps.

NOTE [graphs kept by number]
What a caller can keep are arrays, and a graph of autograd is none. So the first half of a
derivative keeps its graph here, and returns a number to find it by. Nobody tells when it is needed
no more: the newest are kept, of those that were used the last one alone, and without its graph the
second half runs the function again.
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
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._core.spec import ArraySpec, check_specs_unchanged
from bridge._sources.torch.autodiff.transforms import ACCUMULATES, backward
from bridge._sources.torch.batching.loop_vmap import loop_op
from bridge._sources.torch.batching.rng_consistency import missing_key_error
from bridge._sources.torch.capture.environment import (
    default_state,
    fork_generators,
    generator_states,
    with_seed,
)
from bridge._sources.torch.capture.trace import Fun, contiguous_copy
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.replaced_tensors import backward_setup

_MOST_GRAPHS = 256
_NUMBER = ArraySpec((), "int32")


@dataclasses.dataclass(frozen=True)
class _Graph:
    """Results of a function, and the arguments that they are to be differentiated by."""

    inputs: Sequence[torch.Tensor]
    outputs: Sequence[torch.Tensor]
    again: Callable[[], None] | None  # precedes the backward pass, which may read a module
    states: Sequence[torch.Tensor]  # of generators, from which a backward pass may draw


class _Graphs:
    """Those that are kept: NOTE [graphs kept by number]."""

    def __init__(self) -> None:
        self._unused: collections.OrderedDict[int, _Graph] = collections.OrderedDict()
        self._used: tuple[int, _Graph] | None = None
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def keep(self, graph: _Graph) -> int:
        """The number of a graph."""
        with self._lock:
            number = next(self._numbers) % 2**31
            self._unused[number] = graph
            while len(self._unused) > _MOST_GRAPHS:
                self._unused.popitem(last=False)
        return number

    def find(self, number: int) -> _Graph | None:
        """The graph of this number, if it is still there."""
        with self._lock:
            graph = self._unused.pop(number, None)
            if graph is not None:
                self._used = number, graph
            return self._used[1] if self._used and self._used[0] == number else None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SavedGraph:
    """A first derivative by graphs that are kept.

    Attributes:
        fun: What is differentiated.
        name: Of it.
        primals: Its arguments.
        outputs: Its results.
        settings: Those of the user's function.
        argnums: Positions of the arguments that it is differentiated by.
        again: `(needed, given) -> Op`, the gradients from the arguments, for which it runs again.
        graphs: Those that are kept.
    """

    fun: Fun
    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    argnums: Positions
    again: Callable[[Positions, Positions], Op]
    graphs: _Graphs = dataclasses.field(default_factory=_Graphs)

    def forward_backward(self, outnums: Positions) -> ForwardBackward:
        """The halves, for cotangents of the outputs at `given` or some of them."""
        halves: dict[Any, Op] = {}

        def half(argnums: Positions, outnums: Positions) -> Op:
            if (argnums, outnums) not in halves:
                halves[argnums, outnums] = self._backward(argnums, outnums)
            return halves[argnums, outnums]

        return ForwardBackward(
            strategy="save",
            forward=self._op("forward", self._forward(), (*self.outputs, _NUMBER)),
            backward=lambda needed: half(needed, outnums),
            output_count=len(self.outputs),
            saved_primals=tuple(range(len(self.primals))),
            saved_outputs=(),
            backward_from=half,
        )

    def _op(self, half: str, call: Callable[..., Any], outputs: Specs) -> Op:
        made = Op(
            name=f"{self.name}.{half}",
            framework="torch",
            call=call,
            output_specs=lambda *_: outputs,
            vmap=lambda axes, size: loop_op(made, axes, size),
            reruns=True,
        )
        return made

    def _forward(self) -> Callable[..., Any]:
        def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with default_state(self.settings.dtype), torch.enable_grad():
                copies = [x.detach().clone() for x in xs]
                free = [copies[i].requires_grad_() for i in self.argnums]
                outputs = list(self.fun(*replace_at(free, self.argnums, copies)))
                found = [contiguous_copy(y.detach()) for y in outputs]
                again = backward_setup()
            check_specs_unchanged([*map(ARRAYS.spec, found)], self.outputs, self.name)
            number = self.graphs.keep(_Graph(free, outputs, again, generator_states(xs)))
            return (*found, torch.tensor(number, dtype=torch.int32))

        return call if self.settings.seed is None else with_seed(call, self.settings.seed)

    def _backward(self, argnums: Positions, outnums: Positions) -> Op:
        count = len(self.primals)
        specs = tuple(self.primals[i] for i in argnums)

        def call(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cotangents = [c.detach().clone() for c in args[count + 1 :]]
            graph = self.graphs.find(int(args[count]))
            if graph is None or not all(graph.outputs[i].requires_grad for i in outnums):
                return self.again(argnums, outnums).call(*args[:count], *cotangents)
            inputs = [graph.inputs[self.argnums.index(i)] for i in argnums]
            outputs = [graph.outputs[i] for i in outnums]
            with (
                default_state(self.settings.dtype),
                torch.enable_grad(),
                self._rerun_random(args[:count], graph),
            ):
                if graph.again:
                    graph.again()
                gradients = backward(outputs, inputs, cotangents, again=False, retain=True)
                found = [contiguous_copy(g.detach()) for g in gradients]
            if any(x.grad is not None for x in inputs):
                raise NoRuleError(ACCUMULATES)
            check_specs_unchanged([*map(ARRAYS.spec, found)], specs, f"{self.name}.backward")
            return tuple(found)

        return self._op("backward", call, specs)

    @contextlib.contextmanager
    def _rerun_random(self, xs: Sequence[torch.Tensor], graph: _Graph) -> Generator[None]:
        """Let a backward pass go on drawing where the call has stopped, if that had a seed."""
        with fork_generators(xs) as generators:
            for generator, state in zip(generators, graph.states, strict=True):
                generator.set_state(state)
            yield
            now = generator_states(xs)
            if self.settings.seed is None and not all(map(torch.equal, graph.states, now)):
                raise missing_key_error(self.name)


def can_save_graph(function: Any) -> bool:
    """Whether a function runs anew, and a call of it can keep the graph of a first derivative."""
    derived = function.strategy is not None or function.is_second_order
    unseeded = function.uses_rng and function.settings.seed is None
    return not function.program and not derived and not unseeded


def save_graph(function: Any, argnums: Positions) -> SavedGraph:
    """The derivative of such a function by its arguments at `argnums`."""
    return SavedGraph(
        fun=function.fun,
        name=function.name,
        primals=function.primals,
        outputs=function.outputs,
        settings=function.settings,
        argnums=argnums,
        again=functools.cache(lambda needed, given: function.vjp(needed, given).make_op()),
    )
