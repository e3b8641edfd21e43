"""What MLX gets wrong, which is refused.

NOTE [complex powers]
The gradients of a power and of cumulative products and sums of exponentials lack a conjugation
where numbers are complex (mlx#2178 left them out), and every derivative of a sign is zero there, so
that the second ones of an absolute value are wrong. Where a function looks at values, no graph
tells what it does for others.

NOTE [derivatives by a value]
MLX 0.32 multiplies the gradient by the value of `full`, and of a mask of results, by the very
value, and takes that of a remainder beside its quotient for 0; by the constant of a `pad` it reads
beyond its own lists, which ends the process. What is in a custom function counts, since a
checkpoint is one that is differentiated.

NOTE [empty arrays]
MLX 0.32 divides by zero where an array without elements is indexed in a gradient or written to,
which ends the process.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._sources.mlx.complex import is_complex
from bridge._sources.mlx.dot_graph import Step, reachable_from
from bridge._sources.mlx.exported import exported_batch_operations, exported_operations
from bridge._sources.mlx.graph_summary import GraphSummary, summarize_graph
from bridge._sources.mlx.random import Fun

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


def check_unseen(primals: Specs, outputs: Specs, name: str) -> None:
    """Raise for complex numbers in a function that looks at values: NOTE [complex powers]."""
    if any(spec.dtype == "complex64" for spec in (*primals, *outputs)):
        raise NoRuleError(
            f"MLX computes wrong gradients of some complex functions (mlx#2178), and {name} looks "
            "at values, so that nothing tells whether it has one. Compute on arrays alone, with "
            "mx.where for decisions."
        )


@dataclasses.dataclass(frozen=True)
class _Fault:
    """A derivative that MLX has wrong: NOTE [derivatives by a value].

    Attributes:
        what: Of which operation, and by what.
        instead: What can be written.
        happens: Whether it is asked for: of a step, of what moves, and of what is used.
        forward: Whether the tangent is wrong as well.
    """

    what: str
    instead: str
    happens: Callable[[Step, Collection[str], Collection[str]], bool]
    forward: bool = True


_FAULTS = {
    "Full": _Fault(
        "mx.full and mx.full_like by the value",
        "mx.broadcast_to(value, shape)",
        lambda step, moving, _: step.inputs[0] in moving,
        forward=False,
    ),
    "Pad": _Fault(
        "mx.pad by constant_values",
        "mx.pad(x - value, widths) + value",
        lambda step, moving, _: step.inputs[1] in moving,
    ),
    "DivMod": _Fault(
        "the remainder of mx.divmod",
        "mx.remainder(x, y), or x % y",
        lambda step, _, used: step.outputs[1] in used,
    ),
    "BlockMaskedMM": _Fault(
        "mx.block_masked_mm by mask_out",
        "the product without it, times the mask repeated by mx.repeat along both axes",
        lambda step, moving, _: len(step.inputs) in {3, 5} and step.inputs[2] in moving,
    ),
}


def check_graph(
    known: Iterable[Step],
    start: Iterable[str],
    outputs: Collection[str],
    name: str,
    *,
    forward: bool,
) -> None:
    """Raise where a derivative of the graph by the arrays named `start` would be wrong."""
    known = [*known]
    if not any(step.name in _FAULTS for step in known):
        return
    moving = reachable_from(known, start, bodies=True)
    used = {x for step in known for x in step.inputs}.union(outputs)
    for step in known:
        fault = _FAULTS.get(step.name)
        asked = fault and not moving.isdisjoint(step.inputs) and (fault.forward or not forward)
        if fault and asked and fault.happens(step, moving, used):
            raise NoRuleError(
                f"MLX computes wrong derivatives of {fault.what}, which {name} needs. Write "
                f"{fault.instead}; or mx.stop_gradient around what has no derivative."
            )


def check_gradient(
    fun: Fun,
    primals: Specs,
    known: GraphSummary,
    name: str,
    argnums: Positions,
    *,
    forward: bool = False,
) -> None:
    """Raise where the gradient of `fun` by the primals at `argnums` would be wrong.

    Or its tangent: NOTE [complex powers], NOTE [derivatives by a value].
    """
    start = [f"x_{i}" for i in argnums]
    outputs = [f"y_{i}" for i in range(len(known.outputs))]
    check_graph(known.operations_in_order, start, outputs, name, forward=forward)
    moving = reachable_from(known.operations_in_order, start, bodies=True)
    taped = {step.name for step in known.operations_in_order if not moving.isdisjoint(step.inputs)}
    names = [name for name in _WRONG if any(name in each for each in taped)]
    found = [name for name in names if name in _WRONG_FORWARD or not forward]
    exported = {_WRONG[name][0] for name in found}
    if found and is_complex(fun, primals, known, found, exported):
        raise NoRuleError(
            f"MLX computes wrong gradients of {' and '.join(found)} for complex numbers, which "
            f"{name} has (mlx#2178). Write {'; '.join(_WRONG[name][1] for name in found)}."
        )


def check_sizes(fun: Fun, primals: Specs, known: GraphSummary, name: str) -> None:
    """Raise where MLX would end the process: NOTE [empty arrays]."""
    if not any("Scatter" in name for name in known.operations):
        return
    found = exported_operations(fun, primals) or exported_batch_operations(fun, primals)
    writes = [step for step in found or () if step["name"] == "Scatter"]
    if any(0 in step["inputs"][0][1] for step in writes):
        raise NoRuleError(
            f"{name} cannot be had: MLX ends the process over indices into an array without "
            "elements. Leave the indexing out where an axis has size 0."
        )


def safe_outline(fun: Fun, name: str, primals: Specs) -> GraphSummary | None:
    """The outline of `fun`; raises where MLX would end the process: NOTE [empty arrays]."""
    known = summarize_graph(fun, primals, name)
    if known:
        check_sizes(fun, primals, known, name)
    return known
