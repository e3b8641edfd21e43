"""A first derivative whose forward half returns residuals.

NOTE [where a residual is found]
`jax.vjp` inside a trace returns a pytree whose leaves are the residuals. Some of them are
primals or outputs, which the caller has anyway, and some are constants; only the others have to be
returned and saved. The jaxpr of the trace shows which is which. The backward half gets the saved
primals, the saved outputs and the other residuals; followed by the constants, they are the pool
that `Residuals.pool_index` points into.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from bridge._arrays.jax import conjugate_all
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._sources.jax.derivative import Derivative
from bridge._sources.jax.packing import Packing, make_packing
from bridge._sources.jax.trace import Program, trace
from bridge._sources.jax.x64_boundary import external_specs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Residuals:
    """Where to find the leaves of a pullback: NOTE [where a residual is found].

    Attributes:
        primals: Positions of the primals that are residuals.
        outputs: Positions of the outputs that are residuals.
        others: Positions of all other residuals among the results of the trace.
        constants: Residuals that are known when the function is traced.
        pool_index: For each leaf its position in the pool.
        decoders: For each leaf the function from its encoded form to the leaf.
        tree: The structure of the pullback.
    """

    primals: Positions
    outputs: Positions
    others: Positions
    constants: list[Any]
    pool_index: list[int]
    decoders: list[Callable[[Any], Any]]
    tree: Any

    def pullback(self, saved: Sequence[Any]) -> Callable[..., Any]:
        """Return the function from cotangents to gradients."""
        pool = [*saved, *self.constants]
        leaves = [decode(pool[i]) for i, decode in zip(self.pool_index, self.decoders, strict=True)]
        return jax.tree.unflatten(self.tree, leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class SavedResiduals:
    """A derivative whose forward half returns residuals.

    Attributes:
        derivative: The derivative.
        forward: A trace of the outputs, then the residuals.
        output_count: How many results of `forward` are outputs.
        residuals: Where to find the residuals.
        packing: How residuals that are no primals, outputs or constants share buffers.
    """

    derivative: Derivative
    forward: Program
    output_count: int
    residuals: Residuals
    packing: Packing

    @functools.cached_property
    def saved_primal_and_output_specs(self) -> Specs:
        """The specs of the primals and outputs that are residuals, as the caller sees them."""
        primals = self.derivative.primals
        outputs = external_specs(
            self.forward.outputs[: self.output_count], primals, x64=self.derivative.environment.x64
        )
        saved_primals = (primals[i] for i in self.residuals.primals)
        return (*saved_primals, *(outputs[i] for i in self.residuals.outputs))

    def forward_backward(self) -> ForwardBackward:
        """Make both halves."""
        forward = self.derivative.make_half(
            self._run_forward, "forward", self.derivative.primals, self.output_count
        )
        return ForwardBackward(
            strategy="save",
            forward=forward,
            backward=functools.cache(self._make_backward),
            output_count=self.output_count,
            saved_primals=self.residuals.primals,
            saved_outputs=self.residuals.outputs,
        )

    def _run_forward(self, *xs: Any) -> list[Any]:
        values = self.forward(*xs)
        others = self.packing.pack([values[i] for i in self.residuals.others])
        return [*values[: self.output_count], *others]

    def _make_backward(self, argnums: Positions) -> Op:
        """Make the Op of the gradients at `argnums`.

        It takes the saved primals and outputs, the buffers of other residuals, and cotangents.
        """
        buffer_specs, saved_count = self.packing.buffers(), len(self.saved_primal_and_output_specs)
        residual_count = saved_count + len(buffer_specs)

        def backward(*args: Any) -> tuple[Any, ...]:
            others = self.packing.unpack(args[saved_count:residual_count])
            pullback = self.residuals.pullback([*args[:saved_count], *others])
            gradients = pullback(list(conjugate_all(args[residual_count:])))
            return conjugate_all(gradients[self.derivative.argnums.index(i)] for i in argnums)

        cotangents = (self.forward.outputs[i] for i in self.derivative.outnums)
        return self.derivative.make_half(
            backward, "backward", (*self.saved_primal_and_output_specs, *buffer_specs, *cotangents)
        )


def save_residuals(
    derivative: Derivative, function: Callable[..., Any] | None = None
) -> SavedResiduals:
    """Trace the forward half of a derivative, and locate its residuals.

    `function` computes the same as the program of the derivative, but saves less.
    """
    observed: dict[str, Any] = {}

    def forward(*xs: Any) -> list[Any]:
        outputs, pull = derivative.pullback(xs, function)
        leaves, observed["tree"] = jax.tree.flatten(pull)
        encoded = [_encode_residual(leaf) for leaf in leaves]
        observed["decoders"] = [decode for _, decode in encoded]
        observed["output_count"] = len(outputs)
        return [*outputs, *(residual for residual, _ in encoded)]

    program = trace(forward, derivative.primals, environment=derivative.environment)
    residuals = _locate(program, **observed)
    packing = make_packing(program.outputs[i] for i in residuals.others)
    return SavedResiduals(derivative, program, observed["output_count"], residuals, packing)


_KINDS = ("primal", "output", "other", "constant")  # in the order of the pool


def _locate(
    program: Program, *, output_count: int, decoders: list[Callable[[Any], Any]], tree: Any
) -> Residuals:
    """Find what each residual is; they are the results of the trace after the outputs."""
    jaxpr, constants = program.jaxpr.jaxpr, dict(enumerate(program.jaxpr.consts))
    places = {id(var): ("constant", i) for i, var in enumerate(jaxpr.constvars)}
    places |= {id(var): ("output", i) for i, var in enumerate(jaxpr.outvars[:output_count])}
    places |= {id(var): ("primal", i) for i, var in enumerate(jaxpr.invars)}
    leaf_places = []
    for position, var in enumerate(jaxpr.outvars[output_count:], output_count):
        if isinstance(var, Literal):
            leaf_places.append(("constant", len(constants)))
            constants[len(constants)] = np.asarray(var.val, program.outputs[position].dtype)
        else:
            leaf_places.append(places.setdefault(id(var), ("other", position)))
    pool = sorted(set(leaf_places), key=lambda place: (_KINDS.index(place[0]), place[1]))
    pool_index = {place: i for i, place in enumerate(pool)}
    positions = lambda of_kind: tuple(i for kind, i in pool if kind == of_kind)
    return Residuals(
        primals=positions("primal"),
        outputs=positions("output"),
        others=positions("other"),
        constants=[constants[i] for i in positions("constant")],
        pool_index=[pool_index[place] for place in leaf_places],
        decoders=decoders,
        tree=tree,
    )


def _encode_residual(leaf: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return a residual in a dtype that every framework has, and the function that undoes this."""
    dtype = leaf.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(leaf))
        return jax.random.key_data(leaf), lambda data: jax.random.wrap_key_data(data, impl=impl)
    if dtype in _COMMON_DTYPES:
        return leaf, lambda residual: residual
    wider = "int8" if jnp.issubdtype(dtype, jnp.integer) else "float32"  # than int4, float8, ...
    return leaf.astype(wider), lambda residual: residual.astype(dtype)


_COMMON_DTYPES = {
    jnp.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
    )
}
