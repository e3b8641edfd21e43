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

from bridge._arrays.torch import FACE as ARRAYS
from bridge._core.errors import NoRuleError
from bridge._core.op import Op, Positions, Specs, Split
from bridge._core.pytree import spread
from bridge._core.spec import ArraySpec, check_same
from bridge._sources.torch.autodiff.transforms import ACCUMULATES, pulled
from bridge._sources.torch.batching.loop_vmap import each
from bridge._sources.torch.batching.rng_consistency import keyless_gradient
from bridge._sources.torch.capture.environment import (
    fresh,
    generator_states,
    own_generators,
    seeded,
)
from bridge._sources.torch.capture.trace import Fun, dense
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.replaced_tensors import remembered

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
class Keeping:
    """A first derivative by graphs that are kept.

    Attributes:
        fun: What is differentiated.
        name: Of it.
        primals: Its arguments.
        outputs: Its results.
        settings: Those of the user's function.
        wanted: Positions of the arguments that it is differentiated by.
        again: `(needed, given) -> Op`, the gradients from the arguments, for which it runs again.
        graphs: Those that are kept.
    """

    fun: Fun
    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    wanted: Positions
    again: Callable[[Positions, Positions], Op]
    graphs: _Graphs = dataclasses.field(default_factory=_Graphs)

    def split(self, given: Positions) -> Split:
        """The halves, for cotangents of the outputs at `given` or some of them."""
        halves: dict[Any, Op] = {}

        def half(needed: Positions, given: Positions) -> Op:
            if (needed, given) not in halves:
                halves[needed, given] = self._second(needed, given)
            return halves[needed, given]

        return Split(
            way="save",
            forward=self._op("forward", self._first(), (*self.outputs, _NUMBER)),
            backward=lambda needed: half(needed, given),
            outputs=len(self.outputs),
            kept_primals=tuple(range(len(self.primals))),
            kept_outputs=(),
            narrowed=half,
        )

    def _op(self, half: str, call: Callable[..., Any], outputs: Specs) -> Op:
        made = Op(
            name=f"{self.name}.{half}",
            home="torch",
            call=call,
            specs=lambda *_: outputs,
            vmap=lambda axes, size: each(made, axes, size),
            anew=True,
        )
        return made

    def _first(self) -> Callable[..., Any]:
        def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with fresh(self.settings.dtype), torch.enable_grad():
                copies = [x.detach().clone() for x in xs]
                free = [copies[i].requires_grad_() for i in self.wanted]
                outputs = list(self.fun(*spread(free, self.wanted, copies)))
                found = [dense(y.detach()) for y in outputs]
                again = remembered()
            check_same([*map(ARRAYS.spec, found)], self.outputs, self.name)
            number = self.graphs.keep(_Graph(free, outputs, again, generator_states(xs)))
            return (*found, torch.tensor(number, dtype=torch.int32))

        return call if self.settings.seed is None else seeded(call, self.settings.seed)

    def _second(self, needed: Positions, given: Positions) -> Op:
        count = len(self.primals)
        specs = tuple(self.primals[i] for i in needed)

        def call(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cotangents = [c.detach().clone() for c in args[count + 1 :]]
            graph = self.graphs.find(int(args[count]))
            if graph is None or not all(graph.outputs[i].requires_grad for i in given):
                return self.again(needed, given).call(*args[:count], *cotangents)
            inputs = [graph.inputs[self.wanted.index(i)] for i in needed]
            outputs = [graph.outputs[i] for i in given]
            with (
                fresh(self.settings.dtype),
                torch.enable_grad(),
                self._drawing(args[:count], graph),
            ):
                if graph.again:
                    graph.again()
                gradients = pulled(outputs, inputs, cotangents, again=False, retain=True)
                found = [dense(g.detach()) for g in gradients]
            if any(x.grad is not None for x in inputs):
                raise NoRuleError(ACCUMULATES)
            check_same([*map(ARRAYS.spec, found)], specs, f"{self.name}.backward")
            return tuple(found)

        return self._op("backward", call, specs)

    @contextlib.contextmanager
    def _drawing(self, xs: Sequence[torch.Tensor], graph: _Graph) -> Generator[None]:
        """Let a backward pass go on drawing where the call has stopped, if that had a seed."""
        with own_generators(xs) as generators:
            for generator, state in zip(generators, graph.states, strict=True):
                generator.set_state(state)
            yield
            now = generator_states(xs)
            if self.settings.seed is None and not all(map(torch.equal, graph.states, now)):
                raise keyless_gradient(self.name)


def keeps(function: Any) -> bool:
    """Whether a function runs anew, and a call of it can keep the graph of a first derivative."""
    derived = function.way is not None or function.again
    unseeded = function.draws and function.settings.seed is None
    return not function.program and not derived and not unseeded


def keeping(function: Any, wanted: Positions) -> Keeping:
    """The derivative of such a function by its arguments at `wanted`."""
    return Keeping(
        fun=function.fun,
        name=function.name,
        primals=function.primals,
        outputs=function.outputs,
        settings=function.settings,
        wanted=wanted,
        again=functools.cache(lambda needed, given: function.vjp(needed, given).op()),
    )
