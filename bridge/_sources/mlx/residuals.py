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

from bridge._arrays.mlx import (
    Handle,
    async_evaluate,
    compute_stream,
    overwrite,
    own_memory,
    pop,
    zeros,
)
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._sources.mlx.call_checks import ObservedCall
from bridge._sources.mlx.graph_summary import has_float64
from bridge._sources.mlx.missing_rules import raise_for_leftovers, raise_no_rule
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, rng_state


@dataclasses.dataclass(frozen=True)
class DeferredGradients:
    """Gradients that wait for cotangents: NOTE [a graph that waits for its cotangents]."""

    cotangents: Sequence[mx.array]
    gradients: Sequence[mx.array]


@dataclasses.dataclass(frozen=True, eq=False)
class SavedGraph:
    """A first derivative in two halves.

    Attributes:
        fun: What is differentiated.
        looked: What each call is held to.
        primals: Specs of its arguments.
        argnums: Positions of the primals that get gradients.
        outnums: Positions of the outputs that have cotangents.
        vjp: `(wanted, given) -> Op`, the derivative that recomputes.
    """

    fun: Fun
    looked: ObservedCall
    primals: Specs
    argnums: Positions
    outnums: Positions
    vjp: Callable[[Positions, Positions], Op]

    def forward_backward(self) -> ForwardBackward:
        """Both halves."""
        specs = (*self.looked.outputs, Handle.spec)
        forward = Op(
            name=self.looked.name,
            framework="mlx",
            call=self._forward,
            output_specs=lambda *_: specs,
        )
        return ForwardBackward(
            strategy="save",
            forward=forward,
            backward=functools.cache(self._backward),
            output_count=len(self.looked.outputs),
            saved_primals=tuple(range(len(self.primals))),
            saved_outputs=(),
        )

    def _forward(self, *xs: mx.array) -> tuple[mx.array | Handle, ...]:
        before = rng_state()
        outputs: list[mx.array] = []

        def of_wanted(*free: mx.array) -> list[mx.array]:
            outputs[:] = self.looked.check_outputs(self.fun(*replace_at(free, self.argnums, xs)))
            return separate_nodes([outputs[i] for i in self.outnums])

        with (
            compute_stream(has_float64=has_float64(self.primals)),
            raise_no_rule(f"{self.looked.name}.vjp"),
        ):
            cotangents = [zeros(self.looked.outputs[i]) for i in self.outnums]
            gradients = mx.vjp(of_wanted, [xs[i] for i in self.argnums], cotangents)[1]
            results = own_memory(outputs)
            try:
                async_evaluate(results)
            except RuntimeError as error:
                raise_for_leftovers(error, self.looked.name)
                raise
            self.looked.check_call(results, drew=rng_state() is not before)
            return *results, Handle(DeferredGradients(cotangents, gradients))

    def _backward(self, argnums: Positions) -> Op:
        count = len(self.primals)
        again = self.vjp(argnums, self.outnums)

        def gradients(*row: mx.array) -> tuple[mx.array, ...]:
            waiting: DeferredGradients | None = pop(row[count])
            if waiting is None:
                return again.call(*row[:count], *row[count + 1 :])
            with compute_stream(has_float64=has_float64(self.primals)):
                for place, cotangent in zip(waiting.cotangents, row[count + 1 :], strict=True):
                    overwrite(place, cotangent)
                return own_memory([waiting.gradients[self.argnums.index(i)] for i in argnums])

        specs = tuple(self.primals[i] for i in argnums)
        name = f"{self.looked.name}.backward"
        return Op(name=name, framework="mlx", call=gradients, output_specs=lambda *_: specs)
