"""A first derivative that is taken in two halves, whichever way."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bridge._core.op import Op, Positions, Specs
from bridge._core.pytree import spread
from bridge._sources.jax.environment import Ambient
from bridge._sources.jax.trace import Program, compiled, trace
from bridge._sources.jax.x64_boundary import guarded


@dataclasses.dataclass(frozen=True, eq=False)
class Derivative:
    """The outputs of `program` at `given`, differentiated by its arguments at `wanted`.

    Attributes:
        program: The function.
        name: Of the function.
        primals: Its arguments, as the caller sees them.
        mode: The settings that it is traced and run with.
        wanted: Positions of primals.
        given: Positions of outputs.
    """

    program: Program
    name: str
    primals: Specs
    mode: Ambient
    wanted: Positions
    given: Positions

    def taken(self, xs: Sequence[Any]) -> tuple[list[Any], Callable[..., Any]]:
        """All outputs, and the function from the cotangents of those given to gradients."""

        def of_wanted(*free: Any) -> tuple[list[Any], list[Any]]:
            outputs = self.program(*spread(free, self.wanted, xs))
            return [outputs[i] for i in self.given], outputs

        _, pull, outputs = jax.vjp(of_wanted, *(xs[i] for i in self.wanted), has_aux=True)
        return outputs, pull

    def half(
        self, fun: Callable[..., Any], which: str, primals: Specs, results: int | None = None
    ) -> Op:
        """One half as an Op without rules: what is differentiated again is the whole."""
        program = trace(fun, primals, mode=self.mode)
        call = compiled(program, f"{self.name}.{which}")
        call = guarded(call, primals, mode=self.mode, results=results)
        return Op(name=self.name, home="jax", call=call, specs=lambda *_: program.outputs)
