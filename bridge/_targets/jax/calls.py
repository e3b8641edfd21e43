"""The parameters of JAX's equations: calls of Ops, and derivatives of calls.

They are compared by value, so that a function traced twice is compiled once.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any

from bridge._core.function_protocols import ExecuteInto, ExportKey
from bridge._core.op import Axes, Op, Positions, Specs
from bridge._core.saving_forward import SavingForward
from bridge._core.spec import differentiable_positions


class Programs(dict[Any, Callable[..., list[Any]]]):
    """The programs compiled for calls outside of `jax.jit`; they are freed with their function."""


@dataclasses.dataclass(frozen=True)
class Callee:
    """A bridged function that is called from JAX.

    Attributes:
        execute_into: Executes Ops on buffers.
        programs: Its compiled programs. A weak reference, because JAX keeps traces, which refer to
            calls, for as long as the programs that were compiled from them.
        root: The Op of the function itself.
        export_key: Says where another process finds the function; `None` if nothing does.
    """

    execute_into: ExecuteInto
    programs: weakref.ref[Programs] = dataclasses.field(compare=False, repr=False)
    root: Op = dataclasses.field(compare=False, repr=False)
    export_key: ExportKey | None = dataclasses.field(compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of an Op: what it computes, and what is executed for it.

    Attributes:
        op: The Op that it computes. It takes the first operands, and is what is differentiated.
        callee: The bridged function that it belongs to.
        arity: How many operands `op` takes.
        implementation: The Op that is executed instead of `op`. It returns the outputs of `op`,
            then residuals. It may take operands after those of `op`, residuals of an earlier call.
        implementation_operands: Positions of the operands that `implementation` takes.
        saving_forward: The pair that the residuals belong to, if there are any.
        as_gradient: The gradient that this call computes, if it is one.
    """

    op: Op
    callee: Callee
    arity: int
    implementation: Op | None = None
    implementation_operands: Positions = ()
    saving_forward: SavingForward | None = None
    as_gradient: "Gradient | None" = None

    def __repr__(self) -> str:
        return self.executed_op.name

    @property
    def executed_op(self) -> Op:
        """The Op that is executed."""
        return self.implementation or self.op

    def output_specs(self) -> Specs:
        """Return the specs of the outputs and of the residuals."""
        return self.executed_op.output_specs()

    @property
    def executed_operands(self) -> Positions:
        """Positions of the operands that `executed_op` takes."""
        return self.implementation_operands if self.implementation else tuple(range(self.arity))

    @property
    def operand_count(self) -> int:
        """The number of operands, including those that only derivatives take."""
        return max((self.arity, *(i + 1 for i in self.implementation_operands)))

    @property
    def residual_count(self) -> int:
        """The number of residuals after the outputs."""
        return len(self.executed_op.output_specs()) - len(self.op.output_specs())

    def with_residuals(self, argnums: Positions, outnums: Positions) -> "Call":
        """Return this call with the residuals of its first derivative, if they save a rerun.

        If the forward cannot be batched, the derivative recomputes: a batch may come later.
        """
        pair = (
            self.op.derive("forward_backward", argnums, outnums)
            if self.op.rules.forward_backward
            else None
        )
        if pair is None or pair.forward.rules.vmap is None:
            return self
        primals = tuple(range(self.arity))
        saved = SavingForward(pair, argnums, outnums)
        return Call(self.op, self.callee, self.arity, pair.forward, primals, saved)

    def vmap(self, axes: Axes, size: int) -> "Call":
        """Return the call mapped over `axes` of its operands."""
        op = self.op.derive("vmap", axes[: self.arity], size)
        call = Call(op, self.callee, self.arity)
        if self.as_gradient:
            call = dataclasses.replace(
                call, as_gradient=self.as_gradient.vmap(axes[: self.arity], size)
            )
        if self.implementation is None:
            return call
        operand_axes = tuple(axes[i] for i in self.implementation_operands)
        implementation = self.implementation.derive("vmap", operand_axes, size)
        return dataclasses.replace(
            call,
            implementation=implementation,
            implementation_operands=self.implementation_operands,
        )


@dataclasses.dataclass(frozen=True)
class Jvp:
    """The derivative of a call: a linear function of tangents.

    Its operands are the primals, what the call saved, and the tangents of the primals at `argnums`.

    Attributes:
        op: The Op that is differentiated.
        callee: The bridged function that it belongs to.
        arity: How many primals there are.
        argnums: Positions of the primals that have tangents.
        saved: The forward/backward pair, if the call saved something for it.
        levels: For each `vmap` around the derivative, the axes of the operands and the size of the
            batch. The tangents are mapped along their first axis.
    """

    op: Op
    callee: Callee
    arity: int
    argnums: Positions
    saved: SavingForward | None = None
    levels: tuple[tuple[Axes, int], ...] = ()

    def __repr__(self) -> str:
        return f"{self.op.name}.jvp{'.vmap' * len(self.levels)}"

    def output_specs(self) -> Specs:
        """Return the specs of the tangents without making the jvp, which a gradient never needs."""
        specs = [self.op.output_specs()[i] for i in self.differentiable_outputs]
        for _, size in self.levels:
            specs = [spec.with_axis(0, size) for spec in specs]
        return tuple(specs)

    @property
    def first_tangent(self) -> int:
        """The position of the first tangent among the operands."""
        return self.arity + (self.saved.saved_count if self.saved else 0)

    @functools.cached_property
    def jvp_op(self) -> Op:
        """The Op from primals and tangents to the tangents of differentiable outputs."""
        op = self.op.derive("jvp", self.argnums)
        for axes, size in self.levels:
            op = op.derive("vmap", (*axes[: self.arity], *axes[self.first_tangent :]), size)
        return op

    @functools.cached_property
    def executed_op(self) -> Op:
        """The Op that is executed, which may take residuals after the primals."""
        tangents = self.saved and self.saved.pair.tangents
        if not tangents:
            return self.jvp_op
        op = tangents(self.argnums)
        for axes, size in self.levels:
            op = op.derive("vmap", axes, size)
        return op

    @property
    def executed_operands(self) -> Positions:
        """Positions of the operands that `executed_op` takes."""
        first = self.first_tangent
        saved = first if self.saved and self.saved.pair.tangents else self.arity
        return (*range(saved), *range(first, first + len(self.argnums)))

    @property
    def differentiable_outputs(self) -> Positions:
        """Positions of the outputs that have tangents."""
        return differentiable_positions(self.op.output_specs())

    def vmap(self, axes: Axes, size: int) -> "Jvp":
        """Return the derivative mapped over `axes` of its operands."""
        return dataclasses.replace(self, levels=(*self.levels, (axes, size)))

    def select_tangents(self, positions: Positions) -> "Jvp":
        """Return the derivative for some of the tangents; `positions` counts the tangents only."""
        levels = tuple(
            (
                (*axes[: self.first_tangent], *(axes[self.first_tangent + i] for i in positions)),
                size,
            )
            for axes, size in self.levels
        )
        argnums = tuple(self.argnums[i] for i in positions)
        return dataclasses.replace(self, argnums=argnums, levels=levels)

    def transpose(self, argnums: Positions, outnums: Positions) -> Call:
        """Return the call from cotangents of outputs at `outnums` to those of primals at `argnums`.

        It takes the primals, these cotangents, and what the call saved.
        """
        vjp, saved = self.op.derive("vjp", argnums, outnums), self.saved
        gradient = Gradient(Jvp(self.op, self.callee, self.arity, argnums), outnums)
        call = Call(vjp, self.callee, self.arity + len(outnums), as_gradient=gradient)
        if saved and (backward := saved.backward(argnums, outnums)):
            residuals = range(call.arity, call.arity + saved.saved_count)
            cotangents = range(self.arity, call.arity)
            positions = (*saved.pair.saved_primals, *residuals, *cotangents)
            call = dataclasses.replace(
                call, implementation=backward, implementation_operands=positions
            )
        for axes, size in self.levels:
            residual_axes = axes[self.arity : self.first_tangent]
            call = call.vmap((*axes[: self.arity], *(0 for _ in outnums), *residual_axes), size)
        return call


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The transpose of `linear`, for cotangents of the outputs at `outnums`."""

    linear: Jvp
    outnums: Positions

    def vmap(self, axes: Axes, size: int) -> "Gradient | None":
        """Return it mapped over `axes`, or `None` unless cotangents are mapped along axis 0."""
        arity = self.linear.arity
        if any(axis != 0 for axis in axes[arity:]):
            return None
        mapped = self.linear.vmap((*axes[:arity], *(0 for _ in self.linear.argnums)), size)
        return Gradient(mapped, self.outnums)

    def transpose(self, positions: Positions) -> tuple[Jvp, Positions]:
        """Return the derivative along the primals at these positions of `argnums`.

        Also return the positions of those of its results that are tangents of outputs at `outnums`.
        """
        outputs = self.linear.differentiable_outputs
        tangents = tuple(outputs.index(i) for i in self.outnums)
        return self.linear.select_tangents(positions), tangents


def has_empty_output(specs: Specs) -> bool:
    """Return True if there are no results or one is empty: NOTE [results without elements]."""
    return not specs or any(0 in spec.shape for spec in specs)
