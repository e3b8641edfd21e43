"""A cost model of saving residuals and of recomputing them.

NOTE [what is slow]
The constants were fitted to CPU times on one core, saving and recomputing, for circuits,
perceptrons, attention and elementwise functions. They choose between strategies that differ by
factors, and the choice has to be made before any of them is compiled. A compiler fuses elementwise
operations and keeps their operands in registers, so that they cost nearly nothing. A residual is
written to fresh memory, is read back, and splits the fused loop in two: one byte of it costs as
much as eight additions, or as eighty operations of a matrix product. The result of an operation
that is not fused is written in any case, and costs a sixth of that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from jax.extend.core import Jaxpr

from bridge._arrays.jax.upstream.jaxprs import inner_jaxprs
from bridge._core.spec import ArraySpec

_BUFFER = 6e-6  # seconds to return, save and pass back a residual of any size
_JOIN = 2e-7  # seconds to pack a small residual with others, and to unpack it
_BYTES = 1.25e9  # bytes per second at which a residual of a fused loop is written and read
_UNFUSED_BYTES = 8e9  # the same of a result that is written in any case
_PRODUCTS = 1e11  # operations per second in matrix products and convolutions
_WORDS = 1e10  # other operations per second, on 4 bytes each
_TRANSCENDENTAL = 40.0  # the cost of an operation in `_HEAVY`, in other operations
_EQUATION = 5e-8  # seconds of overhead per equation; small because many are fused
_HEAVY = {"exp", "log", "sin", "cos", "tan", "tanh", "logistic", "erf", "pow", "sqrt", "rsqrt"}
# Of these, the derivative is another transcendental function, whose results are saved as well.
_HEAVY_DERIVATIVE = {"sin", "cos", "erf", "pow"}


def residual_cost(
    buffers: Sequence[ArraySpec], packed_count: int = 0, fused_size: float = math.inf
) -> float:
    """Estimate the seconds to save and restore `buffers`, with `packed_count` arrays in them.

    At most `fused_size` bytes of them are results of operations that would be fused.
    """
    size = sum(math.prod(spec.shape) * spec.item_size for spec in buffers)
    fused = min(size, fused_size)
    seconds = fused / _BYTES + (size - fused) / _UNFUSED_BYTES
    return len(buffers) * _BUFFER + packed_count * _JOIN + seconds


def transcendental_size(jaxpr: Jaxpr) -> float:
    """Return the bytes of transcendental results that a derivative needs; they would be fused."""
    size = 0.0
    for eqn in jaxpr.eqns:
        functions = inner_jaxprs(eqn)
        size += eqn.params.get("length", 1) * sum(map(transcendental_size, functions))
        name = eqn.primitive.name
        count = (name in _HEAVY) + (name in _HEAVY_DERIVATIVE)
        size += 4 * count * sum(map(_word_count, eqn.outvars))
    return size


def recompute_cost(jaxpr: Jaxpr, is_repeated: Callable[[Any], bool] = lambda _: True) -> float:
    """Estimate the seconds to rerun the operations of a function that are repeated.

    `is_repeated` tells it of a primitive. A loop of unknown length counts once.
    """
    return sum(_equation_cost(eqn, is_repeated) for eqn in jaxpr.eqns)


def _equation_cost(eqn: Any, is_repeated: Callable[[Any], bool]) -> float:
    """Estimate the seconds that an equation takes, with the functions that it calls."""
    functions = inner_jaxprs(eqn)
    if functions:
        costs = (recompute_cost(function, is_repeated) for function in functions)
        return eqn.params.get("length", 1) * sum(costs)
    if not is_repeated(eqn.primitive):
        return 0
    terms = 0  # additions and products per element of the result
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
    """Return the size of a variable in units of 4 bytes; the token of an effect has 0."""
    dtype = getattr(var.aval, "dtype", None)
    return math.prod(var.aval.shape) * dtype.itemsize / 4 if dtype else 0
