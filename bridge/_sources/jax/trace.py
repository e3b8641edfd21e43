"""JAX functions as jaxprs.

NOTE [one trace]
The user's function is traced once, to a jaxpr. Its vjp, jvp, batched form and residuals are
all made from the jaxpr, so that no derivative runs the user's Python again.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.core import (
    ClosedJaxpr,
    InconclusiveDimensionOperation,
    Jaxpr,
    jaxpr_as_fun,
)

from bridge._arrays.jax import (
    ARRAYS as ARRAYS,
    check_not_forked,
    shape_dtype_struct,
)
from bridge._core.op import Specs
from bridge._sources.jax.environment import Environment
from bridge._sources.jax.error_names import array_names, with_argument_names


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A traced function.

    Attributes:
        jaxpr: The jaxpr with its constants.
        outputs: The specs of the outputs inside JAX, before 64-bit integers are restored.
        jitted: The function that was traced, jitted, if it may be traced again.
    """

    jaxpr: ClosedJaxpr
    outputs: Specs
    jitted: Callable[..., Any] | None = None
    _dependencies: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, *xs: Any) -> list[Any]:
        """Compute the outputs by operations that JAX can transform."""
        return jaxpr_as_fun(self.jaxpr)(*xs)

    def dependencies(self) -> Sequence[frozenset[int]]:
        """Return for each output the positions of the primals it depends on."""
        if not self._dependencies:
            self._dependencies.extend(_find_dependencies(self.jaxpr.jaxpr))
        return self._dependencies


def _find_dependencies(jaxpr: Jaxpr) -> list[frozenset[int]]:
    """Find the dependencies; looks into jitted functions, any other operation mixes its inputs."""
    argnums = {id(var): frozenset([i]) for i, var in enumerate(jaxpr.invars)}
    nothing: frozenset[int] = frozenset()
    for eqn in jaxpr.eqns:
        inputs = [argnums.get(id(var), nothing) for var in eqn.invars]
        if eqn.primitive.name in ("jit", "pjit"):
            inner = _find_dependencies(eqn.params["jaxpr"].jaxpr)
            outputs = [nothing.union(*(inputs[i] for i in positions)) for positions in inner]
        else:
            outputs = [nothing.union(*inputs)] * len(eqn.outvars)
        argnums |= {id(var): output for var, output in zip(eqn.outvars, outputs, strict=True)}
    return [argnums.get(id(var), nothing) for var in jaxpr.outvars]


def trace(
    fn: Callable[..., Any], primals: Specs, *, environment: Environment, labels: Sequence[str] = ()
) -> Program:
    """Trace `fn` for primals of these specs; this runs its Python once."""
    check_not_forked()
    with environment():
        avals = [shape_dtype_struct(spec, x64=environment.x64) for spec in primals]
        try:
            traced, arguments = with_argument_names(fn, avals, labels) if labels else (fn, avals)
            jaxpr, shapes = jax.make_jaxpr(traced, return_shape=True)(*arguments)
        except _NEEDS_VALUES as error:
            _add_advice(error, primals, labels)
            raise
    return Program(jaxpr, tuple(map(ARRAYS.spec, shapes)))


def trace_derivative(
    fun: Callable[..., Any], primals: Specs, *, environment: Environment, name: str
) -> Program:
    """Trace a derivative of a program, which runs no Python of the user but rules for derivatives.

    So it need not be traced again to be compiled: `jax.jit` has its trace already, and makes
    another one where it has lost that.
    """
    check_not_forked()

    def run(*xs: Any) -> Any:
        return fun(*xs)

    run.__name__ = run.__qualname__ = name
    jitted = jax.jit(run)
    with environment():
        traced = jitted.trace(*(shape_dtype_struct(spec, x64=environment.x64) for spec in primals))
    return Program(traced.jaxpr, tuple(map(ARRAYS.spec, traced.out_info)), jitted)


def observe_outputs(fn: Callable[..., Any], primals: Specs, *, environment: Environment) -> Specs:
    """Return the output specs of `fn`; run it if it needs values: NOTE [example inputs]."""
    try:
        return trace(fn, primals, environment=environment).outputs
    except _NEEDS_VALUES:
        with environment():
            avals = [shape_dtype_struct(spec, x64=environment.x64) for spec in primals]
            return tuple(ARRAYS.spec(jnp.asarray(y)) for y in fn(*map(_example_input, avals)))


def _example_input(aval: Any) -> jax.Array:
    if not jnp.issubdtype(aval.dtype, jnp.inexact):
        return jnp.zeros(aval.shape, aval.dtype)
    return jax.random.uniform(jax.random.key(0), aval.shape).astype(aval.dtype)


_NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    # JAX raises these for a tracer as a shape, in a slice, or as a static argument of jax.jit.
    TypeError,
    IndexError,
    ValueError,
)


def symbolic_output_shapes(
    fn: Callable[..., Any], primals: Specs, names: Sequence[Sequence[int | str]], *, x64: bool
) -> list[tuple[int | str, ...]] | None:
    """Return the output shapes for shapes that contain names; None if `fn` needs to know more."""
    axis_names = sorted({axis for shape in names for axis in shape if isinstance(axis, str)})
    axes = dict(zip(axis_names, export.symbolic_shape(", ".join(axis_names)), strict=True))
    with jax.enable_x64(x64):
        avals = [shape_dtype_struct(spec, x64=x64) for spec in primals]
        for i, shape in enumerate(names):
            symbolic = tuple(axes[d] if isinstance(d, str) else d for d in shape)
            avals[i] = avals[i].update(shape=symbolic)
        try:
            outputs = jax.eval_shape(fn, *avals)
        except (*_NEEDS_VALUES, InconclusiveDimensionOperation):
            return None
    return [tuple(d if isinstance(d, int) else str(d) for d in y.shape) for y in outputs]


def _add_advice(error: Exception, primals: Specs, labels: Sequence[str]) -> None:
    """Add a note to an error about a tracer: what to write instead."""
    text = str(error)
    if not labels or not ("Tracer" in text or "traced array" in text or "_concrete_" in text):
        return
    names = array_names(labels)
    blame = "".join(re.findall(r"value.? of the argument.? (.*)", text))
    blamed = [
        i for i, n in enumerate(names) if re.search(rf"(?<!\w){re.escape(n)}(?![\w\[])", blame)
    ]
    numbers = [names[i] for i in blamed or range(len(names)) if primals[i].weak_type]
    if numbers:
        parameters = list(dict.fromkeys(name.partition("[")[0] for name in numbers))
        error.add_note(
            f"Numbers are traced as arrays, here {', '.join(numbers)}. If the function needs "
            f"the value of one of them, name it static: static_argnames={parameters!r}."
        )
    if any(not primals[i].weak_type for i in blamed):
        error.add_note(
            "A function that looks at the values of arrays cannot be traced. Write jnp.where or "
            "jax.lax.cond, or pass jit=False, which runs it again on every call."
        )


def jit_program(program: Program, name: str, environment: Environment) -> Callable[..., Any]:
    """Compile `program` by `jax.jit`, each of its outputs in memory of its own."""
    jaxpr = program.jaxpr.jaxpr
    inputs = {id(var) for var in (*jaxpr.invars, *jaxpr.constvars)}
    # jit returns an input that is an output without a copy.
    forwarded = [i for i, var in enumerate(jaxpr.outvars) if id(var) in inputs]
    if program.jitted and not forwarded:
        return environment.run_program(program.jitted)

    def run(*xs: Any) -> list[Any]:
        outputs = program(*xs)
        for i in forwarded:
            outputs[i] = jnp.copy(outputs[i])
        return outputs

    run.__name__ = run.__qualname__ = name
    return environment.run_program(jax.jit(run))
