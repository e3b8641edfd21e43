"""What MLX gets wrong, which is refused.

NOTE [complex powers]
The gradients of a power and of cumulative products and sums of exponentials lack a conjugation
where numbers are complex (mlx#2178 left them out), and every derivative of a sign is zero there, so
that the second ones of an absolute value are wrong. A graph that is exported tells dtypes, but not
every graph can be: then complex numbers anywhere in sight count. Where a function looks at values,
no graph tells what it does for others.

NOTE [empty arrays]
MLX 0.32 divides by zero where an array without elements is indexed in a gradient or written to,
which ends the process.
"""

from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import computing
from bridge._errors import NoRuleError
from bridge._op import Specs
from bridge._sources.mlx._looking import looking
from bridge._sources.mlx._outline import Outline, is_wide, placeholders
from bridge._sources.mlx._random import Fun

# As a drawing and an export call them; and what can be written instead.
_WRONG = {
    "Power": ("Power", "z * z for z**2, and mx.exp(p * mx.log(z)) for other powers"),
    "CumProd": ("Scan", "products for mx.cumprod"),
    "CumLogAddExp": ("", "mx.log(mx.cumsum(mx.exp(z))) for mx.logcumsumexp"),
    "Sign": (
        "Sign",
        "mx.sqrt(mx.real(z * mx.conj(z))) for mx.abs(z), and z over that for its sign",
    ),
}
_WRONG_FORWARD = {"CumLogAddExp", "Sign"}
_COMPLEX = {"Conjugate", "Imag", "Real", "FFT"}


def check_unseen(primals: Specs, outputs: Specs, name: str) -> None:
    """Raise for complex numbers in a function that looks at values: NOTE [complex powers]."""
    if any(spec.dtype == "complex64" for spec in (*primals, *outputs)):
        raise NoRuleError(
            f"MLX computes wrong gradients of some complex functions (mlx#2178), and {name} looks "
            "at values, so that nothing tells whether it has one. Compute on arrays alone, with "
            "mx.where for decisions."
        )


def check_gradient(
    fun: Fun, primals: Specs, known: Outline, name: str, *, forward: bool = False
) -> None:
    """Raise where the gradient of `fun` would be wrong, or its tangent: NOTE [complex powers]."""
    names = [name for name in _WRONG if any(name in each for each in known.operations)]
    found = [name for name in names if name in _WRONG_FORWARD or not forward]
    if found and _is_complex(fun, primals, known, {_WRONG[name][0] for name in found}):
        raise NoRuleError(
            f"MLX computes wrong gradients of {' and '.join(found)} for complex numbers, which "
            f"{name} has (mlx#2178). Write {'; '.join(_WRONG[name][1] for name in found)}."
        )


def _is_complex(fun: Fun, primals: Specs, known: Outline, names: set[str]) -> bool:
    found = steps(fun, primals)
    if found is None:
        seen = any(spec.dtype == "complex64" for spec in (*primals, *known.outputs))
        seen = seen or known.operations >= {"Abs", "AsType"}
        return seen or bool(known.operations & _COMPLEX)
    named = [step for step in found if step["name"] in names]
    return any(mx.complex64 in [x[2] for x in step["inputs"]] for step in named)


def check_sizes(fun: Fun, primals: Specs, known: Outline, name: str) -> None:
    """Raise where MLX would end the process: NOTE [empty arrays]."""
    if not any("Scatter" in name for name in known.operations):
        return
    writes = [step for step in steps(fun, primals) or () if step["name"] == "Scatter"]
    if any(0 in step["inputs"][0][1] for step in writes):
        raise NoRuleError(
            f"{name} cannot be had: MLX ends the process over indices into an array without "
            "elements. Leave the indexing out where an axis has size 0."
        )


def steps(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """The operations of `fun`; `None` where MLX cannot export them."""
    notes = exported(fun, primals)
    return notes and [note for note in notes if note["type"] == "primitive"]


def exported(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """What MLX writes of `fun`; `None` where it cannot, as of a custom function."""
    notes: list[dict[str, Any]] = []
    try:
        with computing(wide=is_wide(primals)), looking():
            mx.export_function(notes.append, fun, *placeholders(primals))
    except (ValueError, RuntimeError):
        return None
    return notes
