"""A first derivative to be split into a forward and a backward half."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bridge._core.op import Op, Positions, Specs, Traits
from bridge._core.pytree import scatter
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.listing import list_program
from bridge._sources.jax.trace import Program, jit_program, trace_derivative
from bridge._sources.jax.x64_boundary import with_narrowed_integers


@dataclasses.dataclass(frozen=True, eq=False)
class Derivative:
    """The derivative of the outputs of `program` at `outnums` by its primals at `argnums`.

    Attributes:
        program: The function to be differentiated.
        name: The name of the function.
        primals: The specs of its primals, as the caller sees them.
        environment: The JAX settings that it is traced and run with.
        argnums: Positions of primals.
        outnums: Positions of outputs.
    """

    program: Program
    name: str
    primals: Specs
    environment: Environment
    argnums: Positions
    outnums: Positions

    def pullback(
        self, xs: Sequence[Any], function: Callable[..., Any] | None = None
    ) -> tuple[list[Any], Callable[..., Any]]:
        """Return all outputs, and the function from cotangents of those at `outnums` to gradients.

        `function` computes the same as `program`, but saves less.

        The outputs are auxiliary results too, since the function that is differentiated returns
        those at `outnums` alone.
        """

        def select_outputs(*free_primals: Any) -> tuple[list[Any], list[Any]]:
            outputs = (function or self.program)(*scatter(free_primals, self.argnums, xs))
            return [outputs[i] for i in self.outnums], outputs

        free_primals = (xs[i] for i in self.argnums)
        _, pullback, outputs = jax.vjp(select_outputs, *free_primals, has_aux=True)
        return outputs, pullback

    def make_half(
        self, fun: Callable[..., Any], half: str, primals: Specs, widened_count: int | None = None
    ) -> Op:
        """Make an Op of one half.

        It has no rules: a second derivative is taken of the whole function, not of its halves.
        """
        name = f"{self.name}.{half}"
        program = trace_derivative(fun, primals, environment=self.environment, name=name)
        call = jit_program(program, name, self.environment)
        call = with_narrowed_integers(
            call, primals, x64=self.environment.x64, widened_count=widened_count
        )
        list_half = functools.partial(
            list_program,
            program,
            self.name,
            primals,
            self.environment,
            widened_count=widened_count,
        )
        return Op(
            name=self.name,
            framework="jax",
            call=call,
            output_specs=lambda *_: program.outputs,
            traits=Traits(graph=functools.cache(list_half)),
        )
