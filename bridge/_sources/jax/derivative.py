"""A first derivative that is taken in two halves, whichever way."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bridge._core.op import Op, Positions, Specs
from bridge._core.pytree import replace_at
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.trace import Program, jit_program, trace
from bridge._sources.jax.x64_boundary import with_x64_boundary


@dataclasses.dataclass(frozen=True, eq=False)
class Derivative:
    """The outputs of `program` at `outnums`, differentiated by its arguments at `argnums`.

    Attributes:
        program: The function.
        name: Of the function.
        primals: Its arguments, as the caller sees them.
        mode: The settings that it is traced and run with.
        argnums: Positions of primals.
        outnums: Positions of outputs.
    """

    program: Program
    name: str
    primals: Specs
    mode: Environment
    argnums: Positions
    outnums: Positions

    def linearize(self, xs: Sequence[Any]) -> tuple[list[Any], Callable[..., Any]]:
        """All outputs, and the function from the cotangents of those given to gradients."""

        def of_wanted(*free: Any) -> tuple[list[Any], list[Any]]:
            outputs = self.program(*replace_at(free, self.argnums, xs))
            return [outputs[i] for i in self.outnums], outputs

        _, pull, outputs = jax.vjp(of_wanted, *(xs[i] for i in self.argnums), has_aux=True)
        return outputs, pull

    def make_half(
        self, fun: Callable[..., Any], which: str, primals: Specs, results: int | None = None
    ) -> Op:
        """One half as an Op without rules: what is differentiated again is the whole."""
        program = trace(fun, primals, mode=self.mode)
        call = jit_program(program, f"{self.name}.{which}")
        call = with_x64_boundary(call, primals, mode=self.mode, results=results)
        return Op(
            name=self.name, framework="jax", call=call, output_specs=lambda *_: program.outputs
        )
