"""The batched form of a function that torch.func.vmap refuses, from its captured graph.

NOTE [example by example]
A graph can be batched whatever the function it was captured from is made of. What is lost in it
are the rules of an `autograd.Function`, so it is not differentiated: the derivative of a batch is
the batch of derivatives. An argument that all examples share gets the sum of their gradients, which
costs the memory of all: where torch.func.vmap takes the function, that is preferred.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch

from bridge._core.errors import NoRuleError
from bridge._core.op import Op, Positions, Specs
from bridge._sources.torch.autodiff.transforms import vmapped
from bridge._sources.torch.autodiff.unrecorded_outputs import recorded_dependencies
from bridge._sources.torch.batching.loop_vmap import (
    Axes,
    batched_specs,
    has_seed_per_example,
    loop_call,
    map_graph,
)
from bridge._sources.torch.batching.rng_consistency import RNG_MISMATCH, same_examples
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Batched:
    """A captured function over an axis of its arguments: NOTE [example by example].

    Attributes:
        base: The function of one example, with its rules.
        axes: For each argument its axis of examples, `None` if all share it.
        out_axes: For each result the axis of examples, `None` for their sum.
        size: How many examples there are.
        settings: Those of the user's function.
    """

    base: Any
    in_axes: Axes
    out_axes: Axes
    size: int
    settings: Settings

    @property
    def name(self) -> str:
        """That of the base, batched."""
        return f"{self.base.name}.vmap"

    @property
    def uses_rng(self) -> bool:
        """Whether random numbers are drawn."""
        return self.base.uses_rng

    @functools.cached_property
    def primals(self) -> Specs:
        """The arguments."""
        return batched_specs(self.base.primals, self.in_axes, self.size)

    @functools.cached_property
    def program(self) -> Program:
        """The graph."""
        fun = vmapped(self.base.program.run, self.in_axes, self.size, self.randomness)

        def results(*xs: torch.Tensor) -> list[torch.Tensor]:
            rows = fun(*xs)
            return [
                y.sum(0) if axis is None else y.movedim(0, axis)
                for y, axis in zip(rows, self.out_axes, strict=True)
            ]

        try:
            return trace(results, self.primals, name=self.name, settings=self.settings)
        except RuntimeError as error:
            raise NoRuleError(f"torch cannot batch {self.base.name}: {error}") from error

    @property
    def outputs(self) -> Specs:
        """The results."""
        return self.program.outputs

    @property
    def unrecorded(self) -> frozenset[int]:
        """Positions of the results that torch records no gradient of."""
        return self.base.unrecorded

    @property
    def randomness(self) -> str:
        """Whether examples draw the same random numbers."""
        return "different" if self.settings.seed is None else "same"

    def same_draws(self, vmap: Op) -> bool:
        """Whether each example of a batched form draws what it would alone."""
        seed = self.settings.seed
        if seed is None or not self.uses_rng:
            return True
        one = self.base.make_op()
        return same_examples(one, vmap, self.in_axes, primals=self.primals, seed=seed)

    def check_rng(self) -> "Batched":
        """Itself, unless random numbers would differ."""
        if not self.same_draws(self.make_op()):
            raise NoRuleError(f"torch cannot batch {self.base.name}: {RNG_MISMATCH}")
        return self

    def make_op(self) -> Op:
        """The function as an Op."""
        return Op(
            name=self.name,
            framework="torch",
            call=make_call(self.program, self.settings),
            call_into=make_call_into(self.program, self.settings),
            output_specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).make_op(),
            jvp=lambda given: self.jvp(given).make_op(),
            vmap=lambda axes, size: self.vmap(axes, size).make_op(),
            dependencies=recorded_dependencies(self),
            fingerprint=self.program.fingerprint,
            graph=export_graph(self.program, self.settings),
        )

    def vjp(self, argnums: Positions, outnums: Positions) -> "Batched":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        if self.uses_rng and self.settings.seed is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, and its derivative would be taken at others "
                "than its value. Let the function take a seed."
            )
        axes = (*self.in_axes, *(self.out_axes[i] for i in outnums))
        return self._of(self.base.vjp(argnums, outnums), axes, (self.in_axes[i] for i in argnums))

    def jvp(self, argnums: Positions) -> "Batched":
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        axes = (*self.in_axes, *(self.in_axes[i] for i in argnums))
        smooth = (i for i, spec in enumerate(self.base.outputs) if spec.differentiable)
        return self._of(self.base.jvp(argnums), axes, (self.out_axes[i] for i in smooth))

    def vmap(self, axes: Axes, size: int) -> "Batched":
        """The function mapped over `axes` of its arguments."""
        kind = (
            LoopedBatch
            if self.uses_rng and has_seed_per_example(self.settings, axes)
            else type(self)
        )
        return make_batched(self, axes, size, kind)

    def _of(self, base: Any, axes: Axes, onto: Iterable[int | None]) -> "Batched":
        kind = LoopedBatch if _reruns(base) else type(self)
        return kind(
            base=base, in_axes=axes, out_axes=tuple(onto), size=self.size, settings=self.settings
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoopedBatch(Batched):
    """The same, one example after the other: NOTE [a seed for each example]."""

    @property
    def outputs(self) -> Specs:
        """The results."""
        return batched_specs(self.base.outputs, self.out_axes, self.size)

    def make_op(self) -> Op:
        """The function as an Op."""
        one = self.base.make_op()
        return Op(
            name=self.name,
            framework="torch",
            call=loop_call(one, self.in_axes, self.out_axes, self.size, self.outputs),
            output_specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).make_op(),
            jvp=lambda given: self.jvp(given).make_op(),
            vmap=lambda axes, size: self.vmap(axes, size).make_op(),
            dependencies=one.dependencies,
            fingerprint=one.fingerprint,
            graph=map_graph(one, self.in_axes, self.out_axes, self.size),
        )


def _reruns(base: Any) -> bool:
    """Whether there is no graph to batch."""
    return isinstance(base, LoopedBatch) or base.program is None


def make_batched(base: Any, axes: Axes, size: int, kind: type[Batched]) -> Batched:
    """`base` mapped over `axes` of its arguments."""
    onto = (0,) * len(base.outputs)
    return kind(base=base, in_axes=axes, out_axes=onto, size=size, settings=base.settings)
