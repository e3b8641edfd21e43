"""The vjp, jvp and batched form of a JAX function, each of them a JAX function again.

NOTE [halves that cannot be had]
Halves are made before a derivative is asked for, and for every derivative that may be: by all
arguments of a call in MLX, of all results, and in torch of a gradient that is computed with
create_graph=True. A rule of the user may refuse one of them with any exception, as one that uses
`symbolic_zeros` can, and callbacks have no rules. Then nothing is saved, and the derivative that is
asked for in the end is recomputed from the primals, where the rule raises again if it refuses that.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bridge._arrays.jax import ARRAYS as ARRAYS, conjugate_all
from bridge._arrays.jax.upstream.tracing import match_explicit_sharding
from bridge._core.captured_state import CapturedState
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph
from bridge._core.op import Axes, ForwardBackward, Op, Positions, Rules, Specs, Traits
from bridge._core.pytree import scatter
from bridge._core.spec import ArraySpec, batched_specs
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.description import describe
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.forward_mode import jvp
from bridge._sources.jax.listing import list_program
from bridge._sources.jax.strategy import choose_strategy
from bridge._sources.jax.trace import Program, jit_program, observe_outputs, trace
from bridge._sources.jax.x64_boundary import (
    external_specs,
    with_narrowed_integers,
    without_shared_memory,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the Ops of one function are made, its derivatives included.

    Attributes:
        jit: True if it is traced as a whole; otherwise its Python is rerun on every call.
        environment: The JAX settings that it is traced and run with.
        residuals: The strategy for its first derivative: `save`, `recompute` or `auto`.
        labels: The names of its arguments in errors.
        has_graph: True if its Ops tell the graph that they become in another framework.
    """

    jit: bool
    environment: Environment
    residuals: str
    labels: tuple[str, ...]
    has_graph: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A pure function of flat arrays, and its rules.

    Attributes:
        name: The name of the user's function, and the rules applied to it.
        primals: The specs of its primals, as the caller sees them.
        settings: The settings of the user's function.
        fun: The function that JAX transforms.
        program: The trace of `fun`, if it was traced.
        known: Returns the specs of its outputs, if it is a derivative that was not traced.
        captured_state: Reads what the user's function captures, if it is rerun on every call.
    """

    name: str
    primals: Specs
    settings: Settings
    fun: Callable[..., Any]
    program: Program | None
    known: Callable[[], Specs] | None = None
    captured_state: Callable[[], CapturedState] | None = None

    def make_op(self) -> Op:
        """Make an Op of the function; it is compiled when it is first called."""
        return Op(
            name=self.name,
            framework="jax",
            call=self._make_call(),
            output_specs=self.output_specs,
            rules=Rules(
                vjp=self.vjp,
                jvp=self.jvp,
                vmap=self.vmap,
                forward_backward=(
                    self.forward_backward
                    if self.program and self.settings.residuals != "recompute"
                    else None
                ),
            ),
            traits=Traits(
                observed_specs=None if self.program else lambda: self._observed_specs,
                dependencies=self.program.dependencies if self.program else None,
                captured_state=self.captured_state,
                description=lambda: describe(self),
                graph=self._list if self.program and self.settings.has_graph else None,
            ),
        )

    @functools.cached_property
    def _graph(self) -> Graph:
        if self.program is None:
            raise NoRuleError(f"`{self.name}` was not traced.")
        settings = self.settings
        return list_program(
            self.program, self.name, self.primals, settings.environment, labels=settings.labels
        )

    def _list(self) -> Graph:
        """Return the graph of the function."""
        return self._graph

    def _make_call(self) -> Callable[..., Any]:
        environment = self.settings.environment
        call = (
            jit_program(self.program, self.name, environment)
            if self.program
            else environment.run_with(without_shared_memory(self.fun))
        )
        return with_narrowed_integers(
            call, self.primals, x64=environment.x64, labels=self.settings.labels
        )

    def output_specs(self, *_: ArraySpec) -> Specs:
        """Return the specs of the outputs as the caller sees them."""
        environment = self.settings.environment
        program = self.program or trace(self.fun, self.primals, environment=environment)
        return external_specs(program.outputs, self.primals, x64=environment.x64)

    @functools.cached_property
    def _observed_specs(self) -> Specs:
        if self.known:
            return self.known()
        outputs = observe_outputs(self.fun, self.primals, environment=self.settings.environment)
        return external_specs(outputs, self.primals, x64=self.settings.environment.x64)

    def vjp(self, argnums: Positions, outnums: Positions) -> Op:
        """Make the Op of the gradients at `argnums` for cotangents of the outputs at `outnums`."""
        count = len(self.primals)

        def gradients(*args: Any) -> tuple[Any, ...]:
            xs, cotangents = args[:count], args[count:]

            def select_outputs(*free_primals: Any) -> list[Any]:
                outputs = self.fun(*scatter(free_primals, argnums, xs))
                return [outputs[i] for i in outnums]

            outputs, pullback = jax.vjp(select_outputs, *(xs[i] for i in argnums))
            pairs = zip(conjugate_all(cotangents), map(jax.typeof, outputs), strict=True)
            return conjugate_all(pullback([match_explicit_sharding(x, y) for x, y in pairs]))

        # Without a trace, the outputs are known only if somebody has asked for them before.
        outputs = self.output_specs() if self.program else vars(self).get("_observed_specs")
        cotangents = (outputs[i] if outputs else _UNKNOWN for i in outnums)
        known = lambda: tuple(self.primals[i] for i in argnums)
        return self._make_derivative("vjp", gradients, (*self.primals, *cotangents), known)

    def jvp(self, argnums: Positions) -> Op:
        """Make the Op of the tangents of differentiable outputs, given tangents at `argnums`."""
        count = len(self.primals)

        def output_tangents(*args: Any) -> Sequence[Any]:
            xs, tangents = args[:count], args[count:]

            def differentiable_outputs(*free_primals: Any) -> list[Any]:
                outputs = self.fun(*scatter(free_primals, argnums, xs))
                return [y for y in outputs if ARRAYS.spec(y).differentiable]

            return jvp(differentiable_outputs, [xs[i] for i in argnums], tangents, self.name)

        tangents = tuple(self.primals[i] for i in argnums)
        known = lambda: tuple(spec for spec in self._observed_specs if spec.differentiable)
        return self._make_derivative("jvp", output_tangents, (*self.primals, *tangents), known)

    def vmap(self, axes: Axes, size: int) -> Op:
        """Make the Op that maps the function over `axes` of its primals."""
        batched = jax.vmap(self.fun, in_axes=axes, axis_size=size)
        primals = batched_specs(self.primals, axes, size)
        known = lambda: tuple(spec.with_axis(0, size) for spec in self._observed_specs)
        return self._make_derivative("vmap", batched, primals, known)

    def forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward | None:
        """Make the forward/backward pair; None where recomputing costs less."""
        if self.program is None:
            return None
        environment = self.settings.environment
        derivative = Derivative(
            self.program, self.name, self.primals, environment, argnums, outnums
        )
        try:
            return choose_strategy(derivative, self.settings.residuals).pair
        except Exception:  # noqa: BLE001, NOTE [halves that cannot be had]
            return None

    def _make_derivative(
        self, rule: str, fun: Callable[..., Any], primals: Specs, known: Callable[[], Specs]
    ) -> Op:
        derivative = make_function(fun, f"{self.name}.{rule}", primals, self.settings)
        state = self.captured_state
        return dataclasses.replace(derivative, known=known, captured_state=state).make_op()


def make_function(
    fun: Callable[..., Any],
    name: str,
    primals: Specs,
    settings: Settings,
) -> Function:
    """Make a function with its rules; trace it now unless the settings say otherwise."""
    if not settings.jit:
        return Function(name, primals, settings, fun, None)
    program = trace(fun, primals, environment=settings.environment, labels=settings.labels)
    return Function(name, primals, settings, program, program)


# The spec of a cotangent of an eager function whose outputs are not known before it is called.
_UNKNOWN = ArraySpec((), "unknown")
