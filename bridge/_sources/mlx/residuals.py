"""A first derivative whose forward half keeps a graph for the backward half.

NOTE [a graph that waits for its cotangents]
mx.vjp takes cotangents together with primals. They are given as arrays of zeros, and of what it
returns only the outputs are evaluated, with all that leads to them. The gradients stay a graph over
that, which costs nothing. When the cotangents are known, they are written into the memory of
the zeros, and the gradients are evaluated. This can be done once; a second backward pass
recomputes. It cannot be done with mx.compile, which fuses operations of both halves: what is
evaluated with the outputs are then gradients for zeros.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import mlx.core as mx

from bridge._arrays.mlx import Handle, begin, computing, overwrite, owned, taken_back, zeros
from bridge._core.op import Op, Positions, Specs, Split
from bridge._core.pytree import spread
from bridge._sources.mlx.call_checks import Looked
from bridge._sources.mlx.graph_summary import is_wide
from bridge._sources.mlx.missing_rules import explained
from bridge._sources.mlx.nodes import separate
from bridge._sources.mlx.random import Fun, state


@dataclasses.dataclass(frozen=True)
class Waiting:
    """Gradients that wait for cotangents: NOTE [a graph that waits for its cotangents]."""

    cotangents: Sequence[mx.array]
    gradients: Sequence[mx.array]


@dataclasses.dataclass(frozen=True, eq=False)
class Saving:
    """A first derivative in two halves.

    Attributes:
        fun: What is differentiated.
        looked: What each call is held to.
        primals: Specs of its arguments.
        wanted: Positions of the primals that get gradients.
        given: Positions of the outputs that have cotangents.
        vjp: `(wanted, given) -> Op`, the derivative that recomputes.
    """

    fun: Fun
    looked: Looked
    primals: Specs
    wanted: Positions
    given: Positions
    vjp: Callable[[Positions, Positions], Op]

    def split(self) -> Split:
        """Both halves."""
        specs = (*self.looked.outputs, Handle.spec)
        forward = Op(name=self.looked.name, home="mlx", call=self._first, specs=lambda *_: specs)
        return Split(
            way="save",
            forward=forward,
            backward=functools.cache(self._second),
            outputs=len(self.looked.outputs),
            kept_primals=tuple(range(len(self.primals))),
            kept_outputs=(),
        )

    def _first(self, *xs: mx.array) -> tuple[mx.array | Handle, ...]:
        before = state()
        outputs: list[mx.array] = []

        def of_wanted(*free: mx.array) -> list[mx.array]:
            outputs[:] = self.looked.held(self.fun(*spread(free, self.wanted, xs)))
            return separate([outputs[i] for i in self.given])

        with computing(wide=is_wide(self.primals)), explained(f"{self.looked.name}.vjp"):
            cotangents = [zeros(self.looked.outputs[i]) for i in self.given]
            gradients = mx.vjp(of_wanted, [xs[i] for i in self.wanted], cotangents)[1]
            results = owned(outputs)
            begin(results)
            self.looked.check(results, drew=state() is not before)
            return *results, Handle(Waiting(cotangents, gradients))

    def _second(self, needed: Positions) -> Op:
        count = len(self.primals)
        again = self.vjp(needed, self.given)

        def gradients(*row: mx.array) -> tuple[mx.array, ...]:
            waiting: Waiting | None = taken_back(row[count])
            if waiting is None:
                return again.call(*row[:count], *row[count + 1 :])
            with computing(wide=is_wide(self.primals)):
                for place, cotangent in zip(waiting.cotangents, row[count + 1 :], strict=True):
                    overwrite(place, cotangent)
                return owned([waiting.gradients[self.wanted.index(i)] for i in needed])

        specs = tuple(self.primals[i] for i in needed)
        name = f"{self.looked.name}.backward"
        return Op(name=name, home="mlx", call=gradients, specs=lambda *_: specs)
