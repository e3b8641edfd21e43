"""First derivatives whose forward half saves a graph for the backward half.

NOTE [a graph that waits for its cotangents]
mx.vjp takes cotangents together with primals. So it gets arrays of zeros as cotangents, and of its
results only the outputs are evaluated, with all that leads to them. The gradients stay a graph on
top of that, which costs nothing. Once the cotangents are known, they are written into the memory of
the zeros, and the gradients are evaluated. This works once; a second backward pass recomputes. It
does not work with mx.compile, which fuses operations of both halves: the gradients that are
evaluated with the outputs are then those for zeros.
"""

import dataclasses
import functools
import math
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
from bridge._arrays.mlx.upstream.errors import raise_for_leftovers, raise_no_rule
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.pytree import scatter
from bridge._sources.mlx.call_checks import CallChecker
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64
from bridge._sources.mlx.late_rules import with_late_rules
from bridge._sources.mlx.native import Settings
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun, rng_state

_SAVING_COST = 40  # in us


def saves_graph(summary: GraphSummary | None, specs: Specs, settings: Settings) -> bool:
    """Return True to save a graph, as asked for or because that costs less than to recompute.

    Args:
        summary: A summary of the graph; None if the function looks at values.
        specs: The specs of the primals and the outputs.
        settings: The settings of the function.
    """
    if summary is None or settings.compile or settings.residuals == "recompute":
        return False
    return settings.residuals == "save" or _recompute_cost(summary, specs) > _SAVING_COST


def _recompute_cost(summary: GraphSummary, specs: Specs) -> float:
    """Estimate the microseconds to run a function again."""
    largest = max((math.prod(spec.shape) for spec in specs), default=0)
    return len(summary.operations_in_order) * (1 + largest / 1000)


def explain_saving(summary: GraphSummary | None, specs: Specs, settings: Settings) -> str:
    """Say why `saves_graph` returns what it returns."""
    if summary is None:
        return "it looks at values, so its derivatives run it again"
    if settings.compile:
        return "compile=True: what mx.compile fuses cannot wait for a backward pass"
    if settings.residuals != "auto":
        return f'residuals="{settings.residuals}" asks for it'
    cost = _recompute_cost(summary, specs)
    return f"{_SAVING_COST} us to save, {cost:.3g} us to recompute, by the cost model"


@dataclasses.dataclass(frozen=True)
class DeferredGradients:
    """Gradients that wait for cotangents: NOTE [a graph that waits for its cotangents]."""

    cotangents: Sequence[mx.array]
    gradients: Sequence[mx.array]


@dataclasses.dataclass(frozen=True, eq=False)
class GraphSavingDerivative:
    """A first derivative in two halves.

    Attributes:
        fun: The function that is differentiated.
        call_checker: What its dry run has shown.
        primals: The specs of its primals.
        argnums: Positions of the primals that get gradients.
        outnums: Positions of the outputs that have cotangents.
        recompute_vjp: `(argnums, outnums) -> Op`, the derivative that recomputes.
        may_have_rules: True if it may call custom functions: NOTE [rules that run late].
    """

    fun: Fun
    call_checker: CallChecker
    primals: Specs
    argnums: Positions
    outnums: Positions
    recompute_vjp: Callable[[Positions, Positions], Op]
    may_have_rules: bool

    def forward_backward(self) -> ForwardBackward:
        """Make the forward/backward pair."""
        outputs = self.call_checker.outputs
        specs = (*outputs, Handle.spec)
        forward = Op(
            name=self.call_checker.name,
            framework="mlx",
            call=self._forward,
            output_specs=lambda *_: specs,
        )
        return ForwardBackward(
            strategy="save",
            forward=forward,
            backward=functools.cache(self._make_backward),
            output_count=len(outputs),
            saved_primals=tuple(range(len(self.primals))),
            saved_outputs=(),
            holds_values=False,
        )

    def _forward(self, *xs: mx.array) -> tuple[mx.array | Handle, ...]:
        """Return the outputs, and a handle of the deferred gradients."""
        checker, before = self.call_checker, rng_state()
        outputs: list[mx.array] = []

        def select_outputs(*free: mx.array) -> list[mx.array]:
            outputs[:] = checker.check_outputs(self.fun(*scatter(free, self.argnums, xs)))
            return separate_nodes([outputs[i] for i in self.outnums])

        with (
            compute_stream(has_float64=has_float64(self.primals)),
            raise_no_rule(f"{checker.name}.vjp"),
        ):
            cotangents = [zeros(checker.outputs[i]) for i in self.outnums]
            pull = lambda *xs: mx.vjp(select_outputs, [*xs], cotangents)[1]
            pull = with_late_rules(pull) if self.may_have_rules else pull
            gradients = pull(*[xs[i] for i in self.argnums])
            results = own_memory(outputs)
            try:
                started = async_evaluate(results)
            except RuntimeError as error:
                raise_for_leftovers(error, checker.name)
                raise
            drew = rng_state() is not before
            checker.check_call(results, drew=drew, transformed=not started)
            return *results, Handle(DeferredGradients(cotangents, gradients))

    def _make_backward(self, argnums: Positions) -> Op:
        """Make the Op that gives the deferred gradients their cotangents."""
        count = len(self.primals)
        recompute = self.recompute_vjp(argnums, self.outnums)

        def gradients(*args: mx.array) -> tuple[mx.array, ...]:
            xs, handle, cotangents = args[:count], args[count], args[count + 1 :]
            deferred: DeferredGradients | None = pop(handle)
            if deferred is None:
                return recompute.call(*xs, *cotangents)
            with compute_stream(has_float64=has_float64(self.primals)):
                for placeholder, cotangent in zip(deferred.cotangents, cotangents, strict=True):
                    overwrite(placeholder, cotangent)
                return own_memory([deferred.gradients[self.argnums.index(i)] for i in argnums])

        specs = tuple(self.primals[i] for i in argnums)
        name = f"{self.call_checker.name}.backward"
        return Op(name=name, framework="mlx", call=gradients, output_specs=lambda *_: specs)
