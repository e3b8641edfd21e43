"""What equations of JAX hold: Ops to call, and derivatives of them that are still to be taken.

They are compared by value, so that a trace made again is the same trace to a compiler.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.protocols import ExecuteInto, ExportKey

Axes = tuple[int | None, ...]


class Programs(dict[Any, Callable[..., list[Any]]]):
    """What was compiled for calls outside of `jax.jit`; it goes with the function it is for."""


@dataclasses.dataclass(frozen=True)
class CallSite:
    """A function that is called from JAX.

    Attributes:
        execute_into: What evaluates Ops on buffers.
        programs: Held weakly: JAX keeps traces, which hold calls, for as long as the programs that
            were compiled from them.
        root: The function itself.
        export_key: Where another process finds it, if that can be told.
    """

    execute_into: ExecuteInto
    programs: weakref.ref[Programs] = dataclasses.field(compare=False, repr=False)
    root: Op = dataclasses.field(compare=False, repr=False)
    export_key: ExportKey | None = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class SavedForBackward:
    """A first derivative in two halves, and what it is made for."""

    split: ForwardBackward
    argnums: Positions
    outnums: Positions

    @property
    def residual_count(self) -> int:
        """How many arrays besides primals the second half takes from the first."""
        residuals = len(self.split.forward.output_specs()) - self.split.output_count
        return len(self.split.saved_outputs) + residuals

    def read_saved(self, results: Sequence[Any]) -> list[Any]:
        """These arrays, among the results of the first half."""
        kept = [results[i] for i in self.split.saved_outputs]
        return [*kept, *results[self.split.output_count :]]

    def backward(self, argnums: Positions, outnums: Positions) -> Op | None:
        """The second half, `None` where it needs what was not kept."""
        if not {*argnums} <= {*self.argnums}:
            return None
        if outnums == self.outnums:
            return self.split.backward(argnums)
        return self.split.backward_from(argnums, outnums) if self.split.backward_from else None


@dataclasses.dataclass(frozen=True)
class Call:
    """An Op as it is called: what it means, and what is run for it.

    Attributes:
        op: What it means. All derivatives are those of this Op, which takes the first operands.
        site: The function of the user that it belongs to.
        arity: How many operands `op` takes.
        instead: What is run: an Op with the outputs of `op`, and residuals behind them. It may take
            operands behind those of `op`, which are residuals of an earlier call.
        operand_positions: Which operands it takes.
        kept: What residuals behind the outputs are for.
        gradient: The derivative that it is the transpose of, if it is one.
    """

    op: Op
    site: CallSite
    arity: int
    implementation: Op | None = None
    operand_positions: Positions = ()
    saved: SavedForBackward | None = None
    gradient: "Gradient | None" = None

    def __repr__(self) -> str:
        return self.executed_op.name

    @property
    def executed_op(self) -> Op:
        """The Op that is run."""
        return self.implementation or self.op

    def output_specs(self) -> Specs:
        """Of the results."""
        return self.executed_op.output_specs()

    @property
    def needed_operands(self) -> Positions:
        """Which operands it takes."""
        return self.operand_positions if self.implementation else tuple(range(self.arity))

    @property
    def operand_count(self) -> int:
        """How many operands there are, with those that only matter to derivatives."""
        return max((self.arity, *(i + 1 for i in self.operand_positions)))

    @property
    def residual_count(self) -> int:
        """How many residuals there are behind the outputs."""
        return len(self.executed_op.output_specs()) - len(self.op.output_specs())

    def with_residuals(self, argnums: Positions, outnums: Positions) -> "Call":
        """The same call, with the residuals of its first derivative if that saves running it again.

        An Op whose halves cannot be batched recomputes: a batch may come later.
        """
        split = (
            self.op.derive("forward_backward", argnums, outnums)
            if self.op.forward_backward
            else None
        )
        if split is None or split.forward.vmap is None:
            return self
        everything = tuple(range(self.arity))
        kept = SavedForBackward(split, argnums, outnums)
        return Call(self.op, self.site, self.arity, split.forward, everything, kept)

    def vmap(self, axes: Axes, size: int) -> "Call":
        """The call mapped over `axes` of its operands."""
        op = self.op.derive("vmap", axes[: self.arity], size)
        made = Call(op, self.site, self.arity)
        if self.gradient:
            made = dataclasses.replace(made, gradient=self.gradient.vmap(axes[: self.arity], size))
        if self.implementation is None:
            return made
        taken = tuple(axes[i] for i in self.operand_positions)
        instead = self.implementation.derive("vmap", taken, size)
        return dataclasses.replace(
            made, implementation=instead, operand_positions=self.operand_positions
        )


@dataclasses.dataclass(frozen=True)
class Linear:
    """The derivative of a call: a linear function of tangents.

    Its operands are the primals, what the call kept, and the tangents of the primals at `argnums`.

    Attributes:
        op: What is differentiated.
        site: The function of the user that it belongs to.
        arity: How many primals there are.
        argnums: Positions of those that have tangents.
        saved: The halves of the derivative, if the call kept residuals.
        levels: Axes of the operands, and size, of each `vmap` around the derivative. The tangents
            are mapped along their first axis.
    """

    op: Op
    site: CallSite
    arity: int
    argnums: Positions
    saved: SavedForBackward | None = None
    levels: tuple[tuple[Axes, int], ...] = ()

    def __repr__(self) -> str:
        return f"{self.op.name}.jvp{'.vmap' * len(self.levels)}"

    def output_specs(self) -> Specs:
        """Of the tangents. The Op is not asked: a gradient alone never needs its tangents."""
        found = [self.op.output_specs()[i] for i in self.differentiable_outputs]
        for _, size in self.levels:
            found = [spec.with_axis(0, size) for spec in found]
        return tuple(found)

    @property
    def first_tangent(self) -> int:
        """The position of the first tangent."""
        return self.arity + (self.saved.residual_count if self.saved else 0)

    @functools.cached_property
    def op_of_primals(self) -> Op:
        """The Op from primals and tangents to the tangents of smooth outputs."""
        op = self.op.derive("jvp", self.argnums)
        for axes, size in self.levels:
            op = op.derive("vmap", (*axes[: self.arity], *axes[self.first_tangent :]), size)
        return op

    @functools.cached_property
    def executed_op(self) -> Op:
        """The Op that is run, which may take residuals after the primals."""
        tangents = self.saved and self.saved.split.tangents
        if not tangents:
            return self.op_of_primals
        op = tangents(self.argnums)
        for axes, size in self.levels:
            op = op.derive("vmap", axes, size)
        return op

    @property
    def needed_operands(self) -> Positions:
        """Which operands it takes."""
        first = self.first_tangent
        saved = first if self.saved and self.saved.split.tangents else self.arity
        return (*range(saved), *range(first, first + len(self.argnums)))

    @property
    def differentiable_outputs(self) -> Positions:
        """The outputs that have tangents."""
        return differentiable(self.op.output_specs())

    def vmap(self, axes: Axes, size: int) -> "Linear":
        """The derivative mapped over `axes` of its operands."""
        return dataclasses.replace(self, levels=(*self.levels, (axes, size)))

    def with_tangents_at(self, at: Positions) -> "Linear":
        """The same for some of the tangents: those at these positions among them."""
        levels = tuple(
            ((*axes[: self.first_tangent], *(axes[self.first_tangent + i] for i in at)), size)
            for axes, size in self.levels
        )
        argnums = tuple(self.argnums[i] for i in at)
        return dataclasses.replace(self, argnums=argnums, levels=levels)

    def transpose(self, argnums: Positions, outnums: Positions) -> Call:
        """Return the call from cotangents of outputs at `outnums` to those of primals at `argnums`.

        It takes the primals, these cotangents, and what the call kept.
        """
        vjp, kept = self.op.derive("vjp", argnums, outnums), self.saved
        whole = Linear(self.op, self.site, self.arity, argnums)
        gradient = Gradient(whole, outnums)
        call = Call(vjp, self.site, self.arity + len(outnums), gradient=gradient)
        if kept and (backward := kept.backward(argnums, outnums)):
            behind = range(call.arity, call.arity + kept.residual_count)
            takes = (*kept.split.saved_primals, *behind, *range(self.arity, call.arity))
            call = dataclasses.replace(call, implementation=backward, operand_positions=takes)
        for axes, size in self.levels:
            extras = axes[self.arity : self.first_tangent]
            call = call.vmap((*axes[: self.arity], *(0 for _ in outnums), *extras), size)
        return call


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The transpose of `linear`, for cotangents of the outputs at `outnums`."""

    linear: Linear
    outnums: Positions

    def vmap(self, axes: Axes, size: int) -> "Gradient | None":
        """It mapped over `axes` of primals and cotangents; `None` if the latter are not at 0."""
        arity = self.linear.arity
        if any(axis != 0 for axis in axes[arity:]):
            return None
        mapped = self.linear.vmap((*axes[:arity], *(0 for _ in self.linear.argnums)), size)
        return Gradient(mapped, self.outnums)

    def transpose(self, at: Positions) -> tuple[Linear, Positions]:
        """The tangents, where primals at these positions of `argnums` have some, and which to take.

        They are those of the outputs that have cotangents.
        """
        smooth = self.linear.differentiable_outputs
        return self.linear.with_tangents_at(at), tuple(smooth.index(i) for i in self.outnums)


def differentiable(specs: Specs) -> Positions:
    """The outputs of a differentiable dtype."""
    return tuple(i for i, spec in enumerate(specs) if spec.differentiable)


def has_empty_output(specs: Specs) -> bool:
    """Whether there are no results, or one has no elements: NOTE [results without elements]."""
    return not specs or any(0 in spec.shape for spec in specs)
