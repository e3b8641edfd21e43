"""A first derivative whose forward half hands out residuals.

NOTE [where a residual is found]
`jax.vjp` inside a trace returns a pytree whose leaves are the residuals. Some of them are
primals or outputs, which the caller has anyway, some are constants; only the others have to be
handed out and kept. Which is which stands in the jaxpr of the trace. The backward half gets the
kept primals, the kept outputs and the others in one row; with the constants behind, this is the
pool that `Residuals.index` points into.
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
    """Where the leaves of a pullback are found again: NOTE [where a residual is found].

    Attributes:
        primals: Positions of the primals among them.
        outputs: Positions of the outputs among them.
        others: Positions, in the results of the trace, of those that are neither.
        constants: Values known when the function was traced.
        index: For each leaf its position in the pool.
        decode: For each leaf what makes it again of the form in which it was handed out.
        tree: Structure of the pullback.
    """

    primals: Positions
    outputs: Positions
    others: Positions
    constants: list[Any]
    index: list[int]
    decode: list[Callable[[Any], Any]]
    tree: Any

    def pullback(self, kept: Sequence[Any]) -> Callable[..., Any]:
        """The function from cotangents to gradients."""
        pool = [*kept, *self.constants]
        leaves = [again(pool[i]) for i, again in zip(self.index, self.decode, strict=True)]
        return jax.tree.unflatten(self.tree, leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class SavedResiduals:
    """A derivative whose first half hands out residuals.

    Attributes:
        of: The derivative.
        forward: A trace of the outputs, then the residuals.
        count: How many outputs there are.
        residuals: Where they are.
        packing: Those that are neither primals, outputs nor constants.
    """

    of: Derivative
    forward: Program
    count: int
    residuals: Residuals
    packing: Packing

    @functools.cached_property
    def residual_specs(self) -> Specs:
        """The primals and the outputs among the residuals, as the caller sees them."""
        seen = external_specs(
            self.forward.outputs[: self.count], self.of.primals, x64=self.of.mode.x64
        )
        primals = (self.of.primals[i] for i in self.residuals.primals)
        return (*primals, *(seen[i] for i in self.residuals.outputs))

    def forward_backward(self) -> ForwardBackward:
        """Both halves."""
        return ForwardBackward(
            strategy="save",
            forward=self.of.make_half(self._forward, "forward", self.of.primals, self.count),
            backward=functools.cache(self._backward),
            output_count=self.count,
            saved_primals=self.residuals.primals,
            saved_outputs=self.residuals.outputs,
        )

    def _forward(self, *xs: Any) -> list[Any]:
        values = self.forward(*xs)
        others = self.packing.pack([values[i] for i in self.residuals.others])
        return [*values[: self.count], *others]

    def _backward(self, argnums: Positions) -> Op:
        """The gradients at `argnums` from a row of what is kept, what is packed and cotangents."""
        packed, kept = self.packing.buffers(), len(self.residual_specs)

        def gradients(*row: Any) -> tuple[Any, ...]:
            others = self.packing.unpack(row[kept : kept + len(packed)])
            pull = self.residuals.pullback([*row[:kept], *others])
            found = pull(list(conjugate_all(row[kept + len(packed) :])))
            return conjugate_all(found[self.of.argnums.index(i)] for i in argnums)

        cotangents = (self.forward.outputs[i] for i in self.of.outnums)
        return self.of.make_half(
            gradients, "backward", (*self.residual_specs, *packed, *cotangents)
        )


def save_residuals(of: Derivative) -> SavedResiduals:
    """The derivative, traced as far as its residuals."""
    noted: dict[str, Any] = {}

    def forward(*xs: Any) -> list[Any]:
        outputs, pull = of.linearize(xs)
        leaves, noted["tree"] = jax.tree.flatten(pull)
        coded = [_encode_residual(leaf) for leaf in leaves]
        noted["count"], noted["decode"] = len(outputs), [again for _, again in coded]
        return [*outputs, *(plain for plain, _ in coded)]

    program = trace(forward, of.primals, mode=of.mode)
    count = noted.pop("count")
    residuals = _locate(program, count, **noted)
    small = make_packing(program.outputs[i] for i in residuals.others)
    return SavedResiduals(of, program, count, residuals, small)


_KINDS = ("primal", "output", "other", "constant")


def _locate(program: Program, count: int, *, decode: list[Any], tree: Any) -> Residuals:
    """What each result of the trace behind the first `count` is to its caller."""
    jaxpr, constants = program.jaxpr.jaxpr, dict(enumerate(program.jaxpr.consts))
    known = {id(var): ("constant", i) for i, var in enumerate(jaxpr.constvars)}
    known |= {id(var): ("output", i) for i, var in enumerate(jaxpr.outvars[:count])}
    known |= {id(var): ("primal", i) for i, var in enumerate(jaxpr.invars)}
    places = []
    for position, var in enumerate(jaxpr.outvars[count:], count):
        if isinstance(var, Literal):
            places.append(("constant", len(constants)))
            constants[len(constants)] = np.asarray(var.val, program.outputs[position].dtype)
        else:
            places.append(known.setdefault(id(var), ("other", position)))
    pool = sorted(set(places), key=lambda place: (_KINDS.index(place[0]), place[1]))
    of_kind = lambda wanted: tuple(i for kind, i in pool if kind == wanted)
    return Residuals(
        primals=of_kind("primal"),
        outputs=of_kind("output"),
        others=of_kind("other"),
        constants=[constants[i] for i in of_kind("constant")],
        index=[pool.index(place) for place in places],
        decode=decode,
        tree=tree,
    )


def _encode_residual(leaf: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A residual in a form that every framework can hold, and the way back."""
    dtype = leaf.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(leaf))
        return jax.random.key_data(leaf), lambda data: jax.random.wrap_key_data(data, impl=impl)
    if dtype in _COMMON:
        return leaf, lambda same: same
    wider = "int8" if jnp.issubdtype(dtype, jnp.integer) else "float32"
    return leaf.astype(wider), lambda wide: wide.astype(dtype)


_COMMON = {
    jnp.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
    )
}
