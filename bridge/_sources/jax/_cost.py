"""What it costs to keep residuals, and what it costs to compute them again, both modelled.

The figures are those of one core: they decide between ways that differ by factors, and the faster
one has to be found before either is compiled.
"""

import math
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr

from bridge._sources.jax._jaxpr import inner
from bridge._spec import ArraySpec

_BUFFER = 6e-6  # seconds to hand out, keep and take back a residual of any size
_BYTES = 4e9  # bytes a second that a residual is written and read with
_OPERATIONS = 2e9  # elementary operations a second in compiled code
_TRANSCENDENTAL = 10.0
_HEAVY = {"exp", "log", "sin", "cos", "tan", "tanh", "logistic", "erf", "pow", "sqrt", "rsqrt"}


def keeping(arrays: Sequence[ArraySpec]) -> float:
    """Seconds to hand out `arrays` and to take them back."""
    size = sum(math.prod(spec.shape) * _width(spec.dtype) for spec in arrays)
    return len(arrays) * _BUFFER + size / _BYTES


def running(jaxpr: Jaxpr) -> float:
    """Seconds to run a function again."""
    return _operations(jaxpr) / _OPERATIONS


def _width(dtype: str) -> int:
    """Bytes of an element, from the digits in the name of its dtype."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return max(1, int(digits or 8) // 8)


def _operations(jaxpr: Jaxpr) -> float:
    """Elementary operations; of a loop of unknown length as if it ran once."""
    return sum(_of_equation(eqn) for eqn in jaxpr.eqns)


def _of_equation(eqn: Any) -> float:
    functions = inner(eqn)
    if functions:
        return eqn.params.get("length", 1) * sum(map(_operations, functions))
    elements = float(sum(math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars))
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return 2 * elements * math.prod(shape[axis] for axis in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        return 2 * elements * math.prod(eqn.invars[1].aval.shape[1:])
    return elements * (_TRANSCENDENTAL if eqn.primitive.name in _HEAVY else 1)
