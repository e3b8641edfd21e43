"""Jaxprs as graphs in the core vocabulary.

NOTE [inlining]
A primitive that is no word is traced again by what computes it: `jax.jit` and custom rules by
their bodies, a solver by its solution, and others by `primitive.impl`, as most of those of other
packages are. What JAX hands to its compiler without saying how it is computed is refused.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from bridge._arrays.jax.upstream.primitives import expansion, is_key, key_shape
from bridge._core.errors import NoRuleError
from bridge._core.graph import Graph
from bridge._core.spec import ArraySpec
from bridge._sources.jax.listing.builder import GraphBuilder, Value
from bridge._sources.jax.listing.keys import translate_keys
from bridge._sources.jax.listing.parameters import find_translation, unknown_parameter

_CALLS = frozenset(
    ["jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "named_call"]
)
_CUSTOM_RULES = frozenset({"custom_jvp_call", "custom_vjp_call"})
_IDENTITIES = frozenset(
    [
        "copy",
        "copy_p",
        "device_put",
        "optimization_barrier",
        "sharding_constraint",
        "name",
        "stop_gradient",
        "random_wrap",
        "random_unwrap",
        "random_clone",
        "mul_by_one",
        "reduce_precision_noop",
    ]
)
_LOOPS = frozenset({"scan", "while", "cond"})
_CALLBACKS = ("callback", "debug", "error")


def value_spec(aval: Any) -> ArraySpec:
    """Return the spec of an abstract value; of keys that of their words."""
    if is_key(aval):
        return ArraySpec((*aval.shape, *key_shape(aval)), "uint32")
    return ArraySpec(tuple(aval.shape), np.dtype(aval.dtype).name)


class Part:
    """A graph that is being listed, of the function of this name or of a loop in it."""

    def __init__(self, name: str, builder: GraphBuilder) -> None:
        self.name, self.builder = name, builder

    def list_body(self, jaxpr: ClosedJaxpr) -> Graph:
        """Return the body of a loop or branch as a graph of its own."""
        builder = GraphBuilder([value_spec(var.aval) for var in jaxpr.jaxpr.invars])
        return builder.build(Part(self.name, builder).inline_closed(jaxpr, builder.inputs))

    def refuse(self, primitive: str, reason: str) -> NoRuleError:
        """Return the error for a primitive that cannot be lowered."""
        return NoRuleError(
            f"`{primitive}` of {self.name} cannot become code of the caller's framework: {reason} "
            "Compute it outside of the function, or leave out lower=, so that JAX computes."
        )

    def add_constant(self, x: Any) -> Value:
        """Add an array of JAX or NumPy; keys by their words."""
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return self.builder.add_constant(np.asarray(x))

    def inline(
        self, jaxpr: Jaxpr, constants: Sequence[Value], operands: Sequence[Value]
    ) -> list[Value]:
        """Add the operations of a jaxpr; return its outputs."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, constants, strict=True))
        values |= zip(jaxpr.invars, operands, strict=True)

        def read(var: Any) -> Value:
            if isinstance(var, Literal):
                return self.add_constant(np.asarray(var.val, value_spec(var.aval).dtype))
            return values[var]

        for eqn in jaxpr.eqns:
            outputs = self.translate(eqn, [read(var) for var in eqn.invars])
            values |= zip(eqn.outvars, outputs, strict=True)
        return [read(var) for var in jaxpr.outvars]

    def inline_closed(self, jaxpr: ClosedJaxpr, operands: Sequence[Value]) -> list[Value]:
        """Add the operations of a jaxpr with its constants; return its outputs."""
        return self.inline(jaxpr.jaxpr, [self.add_constant(x) for x in jaxpr.consts], operands)

    def translate(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Add one equation; return its outputs."""
        name = eqn.primitive.name
        if any(word in name for word in _CALLBACKS):
            raise self.refuse(name, "it calls Python while the function runs.")
        if name in _IDENTITIES:
            return operands
        special = _SPECIAL.get(name) or (_inline_call if name in _CALLS else None)
        special = special or (_inline_custom_rule if name in _CUSTOM_RULES else None)
        if special is not None:
            return special(self, eqn, operands)
        if any(is_key(var.aval) for var in (*eqn.invars, *eqn.outvars)):
            outputs = translate_keys(self.builder, eqn, operands, [*map(_output_spec, eqn.outvars)])
            if outputs is not None:
                return outputs
            if find_translation(name) and name not in _LOOPS:
                raise self.refuse(name, "it has typed keys; use jax.random.key_data.")
        translation = find_translation(name)
        if translation is None:
            return self.inline_implementation(eqn, operands)
        return self.add_word(eqn, operands, translation)

    def add_word(self, eqn: Any, operands: list[Value], translation: Any) -> list[Value]:
        """Add an equation whose primitive is a word."""
        word, _, convert = translation
        specs = [*map(_output_spec, eqn.outvars)]
        unknown = unknown_parameter(eqn.primitive.name, eqn.params)
        if unknown is not None:
            raise self.refuse(eqn.primitive.name, f"nobody has written {unknown} for it.")
        parameters = {key: self._list_bodies(value) for key, value in convert(eqn.params).items()}
        keeps_spec = len(operands) == 1 and specs == [operands[0].spec]
        if keeps_spec and word in ("reshape", "broadcast_in_dim", "convert_element_type"):
            return operands
        return self.builder.add(word, operands, specs, **parameters)

    def _list_bodies(self, value: Any) -> Any:
        """Return the functions among the parameters of an equation as graphs."""
        if isinstance(value, ClosedJaxpr):
            return self.list_body(value)
        if isinstance(value, tuple) and value and isinstance(value[0], ClosedJaxpr):
            return tuple(map(self.list_body, value))
        return value

    def inline_implementation(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Add what computes a primitive that is no word: NOTE [inlining]."""
        name, primitive = eqn.primitive.name, eqn.primitive
        compute = expansion(eqn) or functools.partial(primitive.impl, **eqn.params)
        avals = [jax.ShapeDtypeStruct(x.spec.shape, x.spec.dtype) for x in operands]
        try:
            traced = jax.make_jaxpr(compute)(*avals)
        except Exception as error:
            raise self.refuse(name, f"it is no operation of {_KNOWN}.") from error
        inner = [inner_eqn.primitive.name for inner_eqn in traced.jaxpr.eqns]
        if name in inner or _calls_itself(traced.jaxpr, name):
            raise self.refuse(name, f"it is no operation of {_KNOWN}.")
        return self.inline_closed(traced, operands)


_KNOWN = "the core vocabulary, and JAX does not say of which it is made"


def _calls_itself(jaxpr: Jaxpr, name: str) -> bool:
    """Return True if a jitted part of a jaxpr is the primitive of this name again."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            return True
        inner = eqn.params.get("jaxpr") if eqn.primitive.name in _CALLS else None
        if inner is not None and _calls_itself(getattr(inner, "jaxpr", inner), name):
            return True
    return False


def _output_spec(var: Any) -> ArraySpec:
    return value_spec(var.aval)


def _inline_call(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if isinstance(inner, ClosedJaxpr):
        return part.inline_closed(inner, operands)
    return part.inline(inner, [], operands)


def _inline_custom_rule(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    return part.inline_closed(eqn.params["call_jaxpr"], operands)


def _inline_solution(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    """Add the solution of a linear system, of which JAX has made the derivatives already."""
    lengths = eqn.params["const_lengths"]
    start = lengths.matvec + lengths.vecmat
    constants = operands[start : start + lengths.solve]
    right_sides = operands[start + lengths.solve + lengths.transpose_solve :]
    return part.inline_closed(eqn.params["jaxprs"].solve, [*constants, *right_sides])


def _choose_branch(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    """Add a condition; if it is known, the branch alone."""
    index, branches = part.builder.constant_of(operands[0]), eqn.params["branches"]
    if index is None:
        return part.add_word(eqn, operands, find_translation("cond"))
    clamped = min(max(int(index), 0), len(branches) - 1)
    return part.inline_closed(branches[clamped], operands[1:])


def _choose_platform(part: Part, eqn: Any, _: list[Value]) -> list[Value]:
    """Add the number of the branch that JAX takes by default, or else on the host."""
    platforms = [names or ("default",) for names in eqn.params["platforms"]]
    wanted = [i for i, names in enumerate(platforms) if "default" in names]
    wanted += [i for i, names in enumerate(platforms) if "cpu" in names]
    return [part.add_constant(np.asarray((wanted or [0])[0], eqn.outvars[0].aval.dtype))]


def _count(part: Part, eqn: Any, _: list[Value]) -> list[Value]:
    """Add the numbers that threefry turns into random ones, as two words each."""
    shape = eqn.params["shape"]
    numbers = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint64).reshape(shape)
    high, low = numbers >> np.uint64(32), numbers & np.uint64(0xFFFFFFFF)
    return [part.add_constant(x.astype(np.uint32)) for x in (high, low)]


def _stack(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    (axis,), shape = eqn.params.values(), operands[0].spec.shape
    one = ArraySpec((*shape[:axis], 1, *shape[axis:]), operands[0].spec.dtype)
    parts = [part.builder.add("reshape", [x], [one])[0] for x in operands]
    return part.builder.add("concatenate", parts, [_output_spec(eqn.outvars[0])], dimension=axis)


def _unstack(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    (axis,), spec = eqn.params.values(), operands[0].spec
    sizes = (1,) * spec.shape[axis]
    one = ArraySpec((*spec.shape[:axis], 1, *spec.shape[axis + 1 :]), spec.dtype)
    parts = part.builder.add("split", operands, [one] * len(sizes), sizes=sizes, axis=axis)
    return [
        part.builder.add("reshape", [x], [_output_spec(var)])[0]
        for x, var in zip(parts, eqn.outvars, strict=True)
    ]


def _reshape(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    """Add a reshape, of transposed axes where it has these."""
    order = eqn.params["dimensions"]
    if order is not None:
        spec = operands[0].spec
        moved = ArraySpec(tuple(spec.shape[axis] for axis in order), spec.dtype)
        operands = part.builder.add("transpose", operands, [moved], permutation=tuple(order))
    spec = _output_spec(eqn.outvars[0])
    return operands if spec == operands[0].spec else part.builder.add("reshape", operands, [spec])


def _tile(part: Part, eqn: Any, operands: list[Value]) -> list[Value]:
    (repeats,), (operand,) = eqn.params.values(), operands
    dtype, shape = operand.spec.dtype, operand.spec.shape
    pairs = [*zip(repeats, shape, strict=True)]
    spaced = ArraySpec(tuple(n for _, size in pairs for n in (1, size)), dtype)
    repeated = ArraySpec(tuple(n for pair in pairs for n in pair), dtype)
    x = part.builder.add("reshape", [operand], [spaced])
    axes = tuple(range(len(spaced.shape)))
    x = part.builder.add("broadcast_in_dim", x, [repeated], broadcast_dimensions=axes)
    return part.builder.add("reshape", x, [_output_spec(eqn.outvars[0])])


_SPECIAL: dict[str, Callable[[Part, Any, list[Value]], list[Value]]] = {
    "custom_linear_solve": _inline_solution,
    "cond": _choose_branch,
    "platform_index": _choose_platform,
    "iota_2x32_shape": _count,
    "reshape": _reshape,
    "tile": _tile,
    "stack": _stack,
    "unstack": _unstack,
}
