"""A backward pass that repeats the cheap operations of the forward pass.

NOTE [cheap operations]
`jax.vjp` saves every array that a derivative multiplies by, up to five for a layer: the product,
the normalized product, a mask of what is positive. All but the product follow from it by operations
that a compiler fuses into the loops that read them, for less than it takes to write and read back
a residual. So `jax.checkpoint` may save the results of other operations only, and the backward pass
repeats these. It does so only where JAX can look into every function that is called: a loop of
unknown length would be repeated as a whole, and who wrote a `jax.custom_vjp` or a `jax.checkpoint`
has chosen what is saved.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Jaxpr

from bridge._arrays.jax.upstream.jaxprs import inner_jaxprs, jaxprs_in
from bridge._sources.jax.trace import Program

_CHEAP = {
    *("add", "sub", "mul", "div", "neg", "abs", "sign", "square", "integer_pow", "max", "min"),
    *("add_any", "clamp", "select_n", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"),
    *("xor", "is_finite", "floor", "ceil", "round", "stop_gradient", "copy"),
    *("real", "imag", "conj", "complex", "convert_element_type", "reduce_precision"),
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "iota"),
    *("slice", "concatenate", "pad", "split"),
}
_COMPLEX = ("complex64", "complex128")
_CALLS = {"jit", "pjit", "closed_call", "scan", "cond", "custom_jvp_call"}


def is_cheap(primitive: Any) -> bool:
    """Return True for an operation that is repeated: NOTE [cheap operations]."""
    return primitive.name in _CHEAP


def can_repeat(jaxpr: Jaxpr) -> bool:
    """Return True if the cheap operations of a function can be repeated, and no others."""
    if jaxpr.effects:
        return False
    for eqn in jaxpr.eqns:
        # `jax.checkpoint` of JAX 0.10 rounds what it saves, and raises for complex numbers.
        if any(getattr(var.aval, "dtype", None) in _COMPLEX for var in eqn.outvars):
            return False
        # What a scatter does to two numbers is a function too.
        functions = [] if eqn.primitive.name.startswith("scatter") else inner_jaxprs(eqn)
        calls = functions or "custom_vjp" in eqn.primitive.name
        if calls and not (eqn.primitive.name in _CALLS and all(map(can_repeat, functions))):
            return False
    return True


def repeat_cheap_operations(program: Program) -> Callable[..., Any]:
    """Return `program` so that its derivative saves the results of other operations only."""

    def is_saved(primitive: Any, *_: Any, **params: Any) -> bool:
        if primitive.name == "custom_jvp_call":  # such as relu; other calls are looked into
            return not all(map(_is_only_cheap, jaxprs_in(params)))
        return not is_cheap(primitive)

    # The halves are two programs: no compiler can merge what the second one repeats.
    return jax.checkpoint(program, policy=is_saved, prevent_cse=False)


def _is_only_cheap(jaxpr: Jaxpr) -> bool:
    return all(
        all(map(_is_only_cheap, functions)) if functions else is_cheap(eqn.primitive)
        for eqn in jaxpr.eqns
        for functions in [inner_jaxprs(eqn)]
    )
