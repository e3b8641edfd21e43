"""Batched forms of functions that torch.func.vmap refuses, from their captured graphs.

NOTE [example by example]
A captured graph can be batched, whatever its function calls. But the graph has lost the rules of
`autograd.Function`s, so it is not differentiated: the derivative of a batch is the batch of
derivatives. An argument that all examples share gets the sum of their gradients, which needs the
memory of all of them. So torch.func.vmap is preferred where it supports the function.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import torch

from bridge._core.errors import NoRuleError
from bridge._core.op import Axes, Op, Positions, Rules, Specs, Traits
from bridge._core.spec import batched_specs
from bridge._sources.torch.autodiff.transforms import vmapped
from bridge._sources.torch.autodiff.unrecorded_outputs import gradient_dependencies
from bridge._sources.torch.batching.loop_vmap import has_seed_per_example, loop_op
from bridge._sources.torch.batching.rng_consistency import RNG_MISMATCH, same_as_unbatched
from bridge._sources.torch.capture.graph_export import export_graph
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.program import Program, Settings, make_call, make_call_into


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Batched:
    """The batched form of a captured function: NOTE [example by example].

    Attributes:
        base: The function of one example, with its rules.
        in_axes: For each argument the axis of the examples; `None` if all share the argument.
        out_axes: For each output the axis of the examples; `None` if it is their sum.
        size: The number of examples.
        settings: The settings of the user's function.
    """

    base: Any
    in_axes: Axes
    out_axes: Axes
    size: int
    settings: Settings

    @property
    def name(self) -> str:
        """The name of the base and of the rule."""
        return f"{self.base.name}.vmap"

    @property
    def uses_rng(self) -> bool:
        """True if it draws random numbers."""
        return self.base.uses_rng

    @functools.cached_property
    def primals(self) -> Specs:
        """The specs of the arguments."""
        return batched_specs(self.base.primals, self.in_axes, self.size)

    @functools.cached_property
    def program(self) -> Program:
        """The captured graph of the batched form."""
        fun = vmapped(self.base.program.run_for_batches, self.in_axes, self.size, self.randomness)

        def batch(*xs: torch.Tensor) -> list[torch.Tensor]:
            return [
                y.sum(0) if axis is None else y.movedim(0, axis)
                for y, axis in zip(fun(*xs), self.out_axes, strict=True)
            ]

        try:
            return trace(batch, self.primals, name=self.name, settings=self.settings)
        except RuntimeError as error:
            raise NoRuleError(f"torch cannot batch {self.base.name}: {error}") from error

    @property
    def outputs(self) -> Specs:
        """The specs of the outputs."""
        return self.program.outputs

    @property
    def unrecorded(self) -> frozenset[int]:
        """Positions of the outputs that torch records no gradient of."""
        return self.base.unrecorded

    @property
    def randomness(self) -> str:
        """The argument `randomness` of `torch.func.vmap`."""
        return "different" if self.settings.seed_argnum is None else "same"

    def draws_as_unbatched(self, vmap: Op) -> bool:
        """Return True if each example of the batched form draws what it would draw alone."""
        seed_argnum = self.settings.seed_argnum
        if seed_argnum is None or not self.uses_rng:
            return True
        one = self.base.make_op()
        return same_as_unbatched(
            one, vmap, self.in_axes, primals=self.primals, seed_argnum=seed_argnum
        )

    def check_rng(self) -> "Batched":
        """Return itself; raise if it would draw other random numbers."""
        if not self.draws_as_unbatched(self.make_op()):
            raise NoRuleError(f"torch cannot batch {self.base.name}: {RNG_MISMATCH}")
        return self

    def make_op(self) -> Op:
        """Make the Op of the batched form."""
        return Op(
            name=self.name,
            framework="torch",
            call=make_call(self.program, self.settings),
            output_specs=lambda *_: self.outputs,
            rules=derived_rules(self),
            traits=Traits(
                call_into=make_call_into(self.program, self.settings),
                dependencies=gradient_dependencies(self),
                fingerprint=self.program.fingerprint,
                graph=export_graph(self.program, self.settings),
            ),
        )

    def vjp(self, argnums: Positions, outnums: Positions) -> "Batched":
        """Return the gradients of the primals at `argnums`, by the outputs at `outnums`."""
        if self.uses_rng and self.settings.seed_argnum is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, and its derivative would be taken at others "
                "than its value. Let the function take a seed."
            )
        in_axes = (*self.in_axes, *(self.out_axes[i] for i in outnums))
        out_axes = (self.in_axes[i] for i in argnums)
        return self._batch_like_this(self.base.vjp(argnums, outnums), in_axes, out_axes)

    def jvp(self, argnums: Positions) -> "Batched":
        """Return the tangents of the differentiable outputs, by the primals at `argnums`."""
        in_axes = (*self.in_axes, *(self.in_axes[i] for i in argnums))
        pairs = zip(self.out_axes, self.base.outputs, strict=True)
        out_axes = (axis for axis, spec in pairs if spec.differentiable)
        return self._batch_like_this(self.base.jvp(argnums), in_axes, out_axes)

    def vmap(self, axes: Axes, size: int) -> "Batched":
        """Return the batched form of this batched form."""
        kind = (
            LoopedBatch
            if self.uses_rng and has_seed_per_example(self.settings, axes)
            else type(self)
        )
        return make_batched(self, axes, size, kind)

    def _batch_like_this(
        self, base: Any, in_axes: Axes, out_axes: Iterable[int | None]
    ) -> "Batched":
        """Return the batched form of a derivative of `base` for the same examples."""
        kind = LoopedBatch if _needs_loop(base) else type(self)
        return kind(
            base=base,
            in_axes=in_axes,
            out_axes=tuple(out_axes),
            size=self.size,
            settings=self.settings,
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LoopedBatch(Batched):
    """A batched form that loops over the examples: NOTE [a seed for each example]."""

    @property
    def outputs(self) -> Specs:
        """The specs of the outputs."""
        return batched_specs(self.base.outputs, self.out_axes, self.size)

    def make_op(self) -> Op:
        """Make the Op of the batched form."""
        op = loop_op(self.base.make_op(), self.in_axes, self.size, self.out_axes)
        return dataclasses.replace(op, rules=derived_rules(self))


def derived_rules(function: Any) -> Rules:
    """Make the rules of an Op from those of `function`, which return functions with rules."""
    return Rules(
        vjp=lambda argnums, outnums: function.vjp(argnums, outnums).make_op(),
        jvp=lambda argnums: function.jvp(argnums).make_op(),
        vmap=lambda axes, size: function.vmap(axes, size).make_op(),
    )


def _needs_loop(base: Any) -> bool:
    """Return True if `base` has no graph to batch."""
    return isinstance(base, LoopedBatch) or base.program is None


def make_batched(base: Any, axes: Axes, size: int, kind: type[Batched]) -> Batched:
    """Make the batched form of `base` of this kind, with the examples in front of each output."""
    out_axes = (0,) * len(base.outputs)
    return kind(base=base, in_axes=axes, out_axes=out_axes, size=size, settings=base.settings)
