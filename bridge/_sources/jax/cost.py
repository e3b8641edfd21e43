"""What it costs to keep arrays, and what it costs to compute them again, both modelled.

NOTE [what is slow]
The figures are those of one core, from CPU times of both ways for circuits, perceptrons, attention
and elementwise functions: they decide between ways that differ by factors, and the fastest has to
be found before any is compiled. A compiler fuses elementwise operations and keeps their operands
in registers, so that they cost nearly nothing, where a residual has to be written, to memory that
is fresh, and read, and cuts the fused loops in two: a byte costs as much as eight additions, or as
eighty of the operations of a matrix product.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr

from bridge._core.spec import ArraySpec
from bridge._sources.jax.jaxpr import inner_jaxprs

_BUFFER = 6e-6  # seconds to hand out, keep and take back a residual of any size
_JOIN = 2e-7  # seconds to join a small residual to others, and to part it from them
_BYTES = 1.25e9  # bytes a second that a residual is written and read with
_PRODUCTS = 1e11  # operations a second in matrix products and convolutions
_WORDS = 1e10  # other operations a second, on 4 bytes each
_TRANSCENDENTAL = 40.0  # such operations
_EQUATION = 5e-8  # seconds to get to an equation, many of which are fused with others
_HEAVY = {"exp", "log", "sin", "cos", "tan", "tanh", "logistic", "erf", "pow", "sqrt", "rsqrt"}


def residual_cost(arrays: Sequence[ArraySpec], joined: int = 0) -> float:
    """Seconds to hand out `arrays`, into which others were `joined`, and to take them back."""
    size = sum(math.prod(spec.shape) * _item_size(spec.dtype) for spec in arrays)
    return len(arrays) * _BUFFER + joined * _JOIN + size / _BYTES


def recompute_cost(jaxpr: Jaxpr) -> float:
    """Seconds to run a function again; a loop of unknown length as if it ran once."""
    return sum(map(_equation_cost, jaxpr.eqns))


def _item_size(dtype: str) -> int:
    """Bytes of an element, from the digits in the name of its dtype."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)


def _equation_cost(eqn: Any) -> float:
    functions = inner_jaxprs(eqn)
    if functions:
        return eqn.params.get("length", 1) * sum(map(recompute_cost, functions))
    terms = 0
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        terms = 2 * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    elif eqn.primitive.name == "conv_general_dilated":
        terms = 2 * math.prod(eqn.invars[1].aval.shape[1:])
    weight = _TRANSCENDENTAL if eqn.primitive.name in _HEAVY else 1
    elements = sum(math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars)
    words = sum(map(_word_count, eqn.outvars))
    return _EQUATION + elements * terms / _PRODUCTS + words * weight / _WORDS


def _word_count(var: Any) -> float:
    """How many times 4 bytes a variable has; the token of an effect has none."""
    dtype = getattr(var.aval, "dtype", None)
    return math.prod(var.aval.shape) * dtype.itemsize / 4 if dtype else 0
