"""The vjp, jvp and batched form of a function of JAX, each again such a function.

NOTE [halves that cannot be had]
Halves are made before a derivative is asked for, and for all that may be: all arguments of a call
in MLX, all results, and in torch the derivative of a gradient that is taken with create_graph=True.
A rule may refuse one of them, with any exception, as `symbolic_zeros` lets it, and callbacks have
none. Then nothing is kept, and what is asked for in truth is derived from the arguments, where a
rule that refuses that raises again.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bridge._arrays.jax import ARRAYS as ARRAYS, conjugate_all
from bridge._core.captured_state import CapturedState
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._core.spec import ArraySpec
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.forward_mode import jvp
from bridge._sources.jax.strategy import choose_strategy
from bridge._sources.jax.trace import Program, infer_outputs, jit_program, trace
from bridge._sources.jax.x64_boundary import external_specs, with_x64_boundary, without_aliasing


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        jit: Whether it is traced whole; otherwise it runs anew on each call.
        mode: The settings of JAX that they are traced and run with.
        residuals: `save`, `recompute` or `auto`, how its first derivative is taken.
        labels: What its arguments are called in errors.
    """

    jit: bool
    mode: Environment
    residuals: str
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A pure function of flat arrays of these `primals`, and its rules.

    Attributes:
        name: Of the user's function and the rules applied to it.
        primals: Arguments, as the caller sees them.
        settings: Those of the user's function.
        fun: What JAX transforms.
        program: The same, if it was traced.
        known: Its outputs, if it is a derivative that was not traced.
        captured_state: What reads what the function of the user captures, if it runs anew.
    """

    name: str
    primals: Specs
    settings: Settings
    fun: Callable[..., Any]
    program: Program | None
    known: Callable[[], Specs] | None = None
    captured_state: Callable[[], CapturedState] | None = None

    def make_op(self) -> Op:
        """The function as an Op, compiled when it is first called."""
        call = jit_program(self.program, self.name) if self.program else without_aliasing(self.fun)
        return Op(
            name=self.name,
            framework="jax",
            call=with_x64_boundary(
                call, self.primals, mode=self.settings.mode, labels=self.settings.labels
            ),
            output_specs=self.output_specs,
            observed_specs=None if self.program else lambda: self._expected,
            vjp=self.vjp,
            jvp=self.jvp,
            vmap=self.vmap,
            forward_backward=self.forward_backward
            if self.program and self.settings.residuals != "recompute"
            else None,
            dependencies=self.program.dependencies if self.program else None,
            captured_state=self.captured_state,
        )

    def output_specs(self, *_: ArraySpec) -> Specs:
        """The outputs, as the caller sees them."""
        mode = self.settings.mode
        program = self.program or trace(self.fun, self.primals, mode=mode)
        return external_specs(program.outputs, self.primals, x64=mode.x64)

    @functools.cached_property
    def _expected(self) -> Specs:
        if self.known:
            return self.known()
        found = infer_outputs(self.fun, self.primals, mode=self.settings.mode)
        return external_specs(found, self.primals, x64=self.settings.mode.x64)

    def vjp(self, argnums: Positions, outnums: Positions) -> Op:
        """The gradients of the primals at `argnums`; only the outputs at `outnums` take part."""
        count = len(self.primals)

        def gradients(*args: Any) -> tuple[Any, ...]:
            xs, cotangents = args[:count], args[count:]

            def of_wanted(*free: Any) -> list[Any]:
                outputs = self.fun(*replace_at(free, argnums, xs))
                return [outputs[i] for i in outnums]

            pull = jax.vjp(of_wanted, *(xs[i] for i in argnums))[1]
            return conjugate_all(pull(list(conjugate_all(cotangents))))

        outputs = self.output_specs() if self.program else vars(self).get("_expected")
        cotangents = (outputs[i] if outputs else _UNKNOWN for i in outnums)
        known = lambda: tuple(self.primals[i] for i in argnums)
        return self._derived("vjp", gradients, (*self.primals, *cotangents), known)

    def jvp(self, argnums: Positions) -> Op:
        """The tangents of the differentiable outputs; only the primals at `argnums` move."""
        count = len(self.primals)

        def tangents(*args: Any) -> Sequence[Any]:
            xs, directions = args[:count], args[count:]

            def of_given(*free: Any) -> list[Any]:
                outputs = self.fun(*replace_at(free, argnums, xs))
                return [y for y in outputs if ARRAYS.spec(y).differentiable]

            return jvp(of_given, [xs[i] for i in argnums], directions, self.name)

        moving = tuple(self.primals[i] for i in argnums)
        known = lambda: tuple(spec for spec in self._expected if spec.differentiable)
        return self._derived("jvp", tangents, (*self.primals, *moving), known)

    def vmap(self, axes: tuple[int | None, ...], size: int) -> Op:
        """The function mapped over `axes` of its arguments."""
        batched = jax.vmap(self.fun, in_axes=axes, axis_size=size)
        primals = [s.with_axis(axis, size) for s, axis in zip(self.primals, axes, strict=True)]
        known = lambda: tuple(spec.with_axis(0, size) for spec in self._expected)
        return self._derived("vmap", batched, tuple(primals), known)

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """The first derivative in two halves, `None` where recomputing costs less."""
        if self.program is None:
            return None
        mode = self.settings.mode
        of = Derivative(self.program, self.name, self.primals, mode, argnums, outnums)
        try:
            return choose_strategy(of, self.settings.residuals)
        except Exception:  # noqa: BLE001, NOTE [halves that cannot be had]
            return None

    def _derived(
        self, rule: str, fun: Callable[..., Any], primals: Specs, known: Callable[[], Specs]
    ) -> Op:
        made = function(fun, f"{self.name}.{rule}", primals, self.settings)
        state = self.captured_state
        return dataclasses.replace(made, known=known, captured_state=state).make_op()


def function(
    fun: Callable[..., Any],
    name: str,
    primals: Specs,
    settings: Settings,
) -> Function:
    """`fun` with its rules, traced now unless the settings say otherwise."""
    if not settings.jit:
        return Function(name, primals, settings, fun, None)
    program = trace(fun, primals, mode=settings.mode, labels=settings.labels)
    return Function(name, primals, settings, program, program)


# A cotangent of an eager function, whose outputs nobody has asked for before it is called.
_UNKNOWN = ArraySpec((), "unknown")
