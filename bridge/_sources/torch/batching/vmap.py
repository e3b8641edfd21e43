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
from bridge._sources.torch.autodiff.transforms import mapped
from bridge._sources.torch.batching.loop_vmap import Axes, grown, looped, seeds_differ
from bridge._sources.torch.batching.rng_consistency import OTHER_DRAWS, same_examples
from bridge._sources.torch.capture.graph_export import listed
from bridge._sources.torch.capture.trace import trace
from bridge._sources.torch.program import Program, Settings, executed, written


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Batched:
    """A captured function over an axis of its arguments: NOTE [example by example].

    Attributes:
        base: The function of one example, with its rules.
        axes: For each argument its axis of examples, `None` if all share it.
        onto: For each result the axis of examples, `None` for their sum.
        size: How many examples there are.
        settings: Those of the user's function.
    """

    base: Any
    axes: Axes
    onto: Axes
    size: int
    settings: Settings

    @property
    def name(self) -> str:
        """That of the base, batched."""
        return f"{self.base.name}.vmap"

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return self.base.draws

    @functools.cached_property
    def primals(self) -> Specs:
        """The arguments."""
        return grown(self.base.primals, self.axes, self.size)

    @functools.cached_property
    def program(self) -> Program:
        """The graph."""
        fun = mapped(self.base.program.run, self.axes, self.size, self.randomness)

        def results(*xs: torch.Tensor) -> list[torch.Tensor]:
            rows = fun(*xs)
            return [
                y.sum(0) if axis is None else y.movedim(0, axis)
                for y, axis in zip(rows, self.onto, strict=True)
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
    def randomness(self) -> str:
        """Whether examples draw the same random numbers."""
        return "different" if self.settings.seed is None else "same"

    def draws_alike(self, vmap: Op) -> bool:
        """Whether each example of a batched form draws what it would alone."""
        seed = self.settings.seed
        if seed is None or not self.draws:
            return True
        one = self.base.op()
        return same_examples(one, vmap, self.axes, primals=self.primals, seed=seed)

    def checked(self) -> "Batched":
        """Itself, unless random numbers would differ."""
        if not self.draws_alike(self.op()):
            raise NoRuleError(f"torch cannot batch {self.base.name}: {OTHER_DRAWS}")
        return self

    def op(self) -> Op:
        """The function as an Op."""
        return Op(
            name=self.name,
            home="torch",
            call=executed(self.program, self.settings),
            into=written(self.program, self.settings),
            specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).op(),
            jvp=lambda given: self.jvp(given).op(),
            vmap=lambda axes, size: self.vmap(axes, size).op(),
            reach=self.program.reach,
            text=self.program.text,
            listing=listed(self.program, self.settings),
        )

    def vjp(self, wanted: Positions, given: Positions) -> "Batched":
        """The gradients of the primals at `wanted`; only the outputs at `given` take part."""
        if self.draws and self.settings.seed is None:
            raise NoRuleError(
                f"{self.name} draws random numbers, and its derivative would be taken at others "
                "than its value. Let the function take a seed."
            )
        axes = (*self.axes, *(self.onto[i] for i in given))
        return self._of(self.base.vjp(wanted, given), axes, (self.axes[i] for i in wanted))

    def jvp(self, given: Positions) -> "Batched":
        """The tangents of the differentiable outputs; only the primals at `given` move."""
        axes = (*self.axes, *(self.axes[i] for i in given))
        smooth = (i for i, spec in enumerate(self.base.outputs) if spec.differentiable)
        return self._of(self.base.jvp(given), axes, (self.onto[i] for i in smooth))

    def vmap(self, axes: Axes, size: int) -> "Batched":
        """The function mapped over `axes` of its arguments."""
        kind = Looped if self.draws and seeds_differ(self.settings, axes) else type(self)
        return batched(self, axes, size, kind)

    def _of(self, base: Any, axes: Axes, onto: Iterable[int | None]) -> "Batched":
        kind = Looped if _runs_anew(base) else type(self)
        return kind(base=base, axes=axes, onto=tuple(onto), size=self.size, settings=self.settings)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Looped(Batched):
    """The same, one example after the other: NOTE [a seed for each example]."""

    @property
    def outputs(self) -> Specs:
        """The results."""
        return grown(self.base.outputs, self.onto, self.size)

    def op(self) -> Op:
        """The function as an Op."""
        one = self.base.op()
        return Op(
            name=self.name,
            home="torch",
            call=looped(one, self.axes, self.onto, self.size, self.outputs),
            specs=lambda *_: self.outputs,
            vjp=lambda wanted, given: self.vjp(wanted, given).op(),
            jvp=lambda given: self.jvp(given).op(),
            vmap=lambda axes, size: self.vmap(axes, size).op(),
            reach=one.reach,
            text=one.text,
        )


def _runs_anew(base: Any) -> bool:
    """Whether there is no graph to batch."""
    return isinstance(base, Looped) or base.program is None


def batched(base: Any, axes: Axes, size: int, kind: type[Batched]) -> Batched:
    """`base` mapped over `axes` of its arguments."""
    onto = (0,) * len(base.outputs)
    return kind(base=base, axes=axes, onto=onto, size=size, settings=base.settings)
