"""The first derivative of a function of JAX in two halves, with what stays between them.

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

from bridge._arrays.jax import conjugate
from bridge._op import Op, Positions, Specs, Split
from bridge._sources.jax._border import guarded, outside
from bridge._sources.jax._cost import keeping_is_cheaper
from bridge._sources.jax._packing import packing
from bridge._sources.jax._trace import Program, compiled, trace
from bridge._tree import spread


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


def split(
    fun: Callable[..., Any],
    name: str,
    primals: Specs,
    wanted: Positions,
    given: Positions,
    *,
    x64: bool,
    always: bool,
) -> Split | None:
    """The outputs of `fun` at `given`, differentiated by its arguments at `wanted`.

    Unless it is `always` wanted, `None` where running `fun` again costs less.
    """
    program, outputs, residuals = _linearized(fun, primals, wanted, given, x64=x64)
    count = len(outputs)
    seen = outside(outputs, primals, x64=x64)
    kept = (*(primals[i] for i in residuals.primals), *(seen[i] for i in residuals.outputs))
    small = packing(program.outputs[i] for i in residuals.others)

    if not always and not keeping_is_cheaper(program.jaxpr.jaxpr, small.buffers()):
        return None

    def first(*xs: Any) -> list[Any]:
        values = program(*xs)
        return [*values[:count], *small.pack([values[i] for i in residuals.others])]

    forward = _half(first, f"{name}.forward", primals, x64=x64, results=count)
    packed = forward.specs()[count:]

    @functools.cache
    def backward(needed: Positions) -> Op:
        def gradients(*args: Any) -> tuple[Any, ...]:
            known, args = args[: len(kept)], args[len(kept) :]
            others, cotangents = small.unpack(args[: len(packed)]), args[len(packed) :]
            found = residuals.pullback([*known, *others])(list(conjugate(cotangents)))
            return conjugate(found[wanted.index(i)] for i in needed)

        cotangents = (outputs[i] for i in given)
        return _half(gradients, f"{name}.backward", (*kept, *packed, *cotangents), x64=x64)

    return Split(
        forward=forward,
        backward=backward,
        outputs=count,
        kept_primals=residuals.primals,
        kept_outputs=residuals.outputs,
    )


def _linearized(
    fun: Callable[..., Any], primals: Specs, wanted: Positions, given: Positions, *, x64: bool
) -> tuple[Program, Specs, Residuals]:
    """A trace of the outputs and residuals, the specs of the outputs, where residuals are."""
    noted: dict[str, Any] = {}

    def forward(*xs: Any) -> list[Any]:
        def of_wanted(*free: Any) -> tuple[list[Any], list[Any]]:
            outputs = fun(*spread(free, wanted, xs))
            return [outputs[i] for i in given], outputs

        _, pull, outputs = jax.vjp(of_wanted, *(xs[i] for i in wanted), has_aux=True)
        leaves, noted["tree"] = jax.tree.flatten(pull)
        coded = [_coded(leaf) for leaf in leaves]
        noted["count"], noted["decode"] = len(outputs), [again for _, again in coded]
        return [*outputs, *(plain for plain, _ in coded)]

    program = trace(forward, primals, x64=x64)
    count = noted.pop("count")
    return program, program.outputs[:count], _locate(program, count, **noted)


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


def _half(
    fun: Callable[..., Any], name: str, primals: Specs, *, x64: bool, results: int | None = None
) -> Op:
    """One half as an Op without rules: what is differentiated again is the whole."""
    program = trace(fun, primals, x64=x64)
    call = guarded(compiled(program, name), primals, x64=x64, results=results)
    return Op(name=name, home="jax", call=call, specs=lambda *_: program.outputs)


def _coded(leaf: Any) -> tuple[Any, Callable[[Any], Any]]:
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
