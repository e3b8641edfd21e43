"""Derivatives and operations that MLX gets wrong, which are refused.

NOTE [complex powers]
For complex numbers, the gradients of powers, cumulative products and cumulative sums of
exponentials lack a conjugation (mlx#2178 left them out). Every derivative of a sign is zero, so
that the second derivatives of an absolute value are wrong. Where a function looks at values, no
graph tells which operations it calls for other values.

NOTE [derivatives by a value]
In MLX 0.32, the gradients by the value of `full` and by a mask of results are multiplied by that
very value, and the gradient of a remainder is 0 where its quotient is computed too. The gradient by
the constant of a `pad` reads beyond lists of MLX, which ends the process. Operations inside of a
custom function count, since a checkpoint is one that is differentiated.

NOTE [empty arrays]
MLX 0.32 divides by zero where an array without elements is indexed in a gradient or written to,
which ends the process.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable

from bridge._arrays.mlx.upstream.dot_graph import Step, active_arrays
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._sources.mlx.complex import has_complex_operand
from bridge._sources.mlx.export import export_batched_operations, export_operations
from bridge._sources.mlx.graph_summary import GraphSummary, summarize_graph
from bridge._sources.mlx.random import Fun

# By the name in a graph: the name in an export, and what to write instead.
_WRONG = {
    "Power": ("Power", "z * z for z**2, and mx.exp(p * mx.log(z)) for other powers"),
    "CumProd": ("Scan", "products for mx.cumprod"),
    "CumLogAddExp": ("", "mx.log(mx.cumsum(mx.exp(z))) for mx.logcumsumexp"),
    "Sign": (
        "Sign",
        "mx.sqrt(mx.real(z * mx.conj(z))) for mx.abs(z), and z over that for its sign",
    ),
}
_WRONG_JVP = {"CumLogAddExp", "Sign"}


def check_real(primals: Specs, outputs: Specs, name: str) -> None:
    """Raise for complex numbers in a function that looks at values: NOTE [complex powers]."""
    if any(spec.dtype == "complex64" for spec in (*primals, *outputs)):
        raise NoRuleError(
            f"MLX computes wrong gradients of some complex functions (mlx#2178), and {name} looks "
            "at values, so that nothing tells whether it has one. Compute on arrays alone, with "
            "mx.where for decisions."
        )


@dataclasses.dataclass(frozen=True)
class _Fault:
    """A derivative that MLX gets wrong: NOTE [derivatives by a value].

    Attributes:
        derivative: The derivative, in words: of which operation, and by which argument.
        advice: The code to write instead.
        occurs: Returns True if this derivative is computed, from a step, the names of the arrays
            that depend on the differentiated ones, and the names of the arrays that are used.
        affects_jvp: True if the tangent is wrong as well.
    """

    derivative: str
    advice: str
    occurs: Callable[[Step, Collection[str], Collection[str]], bool]
    affects_jvp: bool = True


_FAULTS = {
    "Full": _Fault(
        "mx.full and mx.full_like by the value",
        "mx.broadcast_to(value, shape)",
        lambda step, active, _: step.inputs[0] in active,
        affects_jvp=False,
    ),
    "Pad": _Fault(
        "mx.pad by constant_values",
        "mx.pad(x - value, widths) + value",
        lambda step, active, _: step.inputs[1] in active,
    ),
    "DivMod": _Fault(
        "the remainder of mx.divmod",
        "mx.remainder(x, y), or x % y",
        lambda step, _, used: step.outputs[1] in used,
    ),
    "BlockMaskedMM": _Fault(
        "mx.block_masked_mm by mask_out",
        "the product without it, times the mask repeated by mx.repeat along both axes",
        lambda step, active, _: len(step.inputs) in {3, 5} and step.inputs[2] in active,
    ),
}


def check_graph(
    steps: Iterable[Step],
    start: Iterable[str],
    outputs: Collection[str],
    name: str,
    *,
    forward_mode: bool,
) -> None:
    """Raise if a derivative of the graph by the arrays named `start` would be wrong."""
    steps = [*steps]
    if not any(step.name in _FAULTS for step in steps):
        return
    active = active_arrays(steps, start, in_custom_functions=True)
    used = {x for step in steps for x in step.inputs}.union(outputs)
    for step in steps:
        fault = _FAULTS.get(step.name)
        applies = (
            fault and not active.isdisjoint(step.inputs) and (fault.affects_jvp or not forward_mode)
        )
        if fault and applies and fault.occurs(step, active, used):
            raise NoRuleError(
                f"MLX computes wrong derivatives of {fault.derivative}, which {name} needs. Write "
                f"{fault.advice}; or mx.stop_gradient around what has no derivative."
            )


def check_captures(summary: GraphSummary, name: str, argnums: Positions) -> None:
    """Raise if the derivative by a primal is lost: NOTE [what compiled functions capture]."""
    if not summary.captured.isdisjoint(argnums):
        raise NoRuleError(
            f"a function that mx.compile made in {name} captures an array, whose derivative MLX "
            "would take for 0. Pass it to that function as an argument."
        )


def check_gradient(
    fun: Fun,
    primals: Specs,
    summary: GraphSummary,
    name: str,
    argnums: Positions,
    *,
    forward_mode: bool = False,
) -> None:
    """Raise if the gradient of `fun` by the primals at `argnums`, or its tangent, would be wrong.

    NOTE [complex powers], NOTE [derivatives by a value].
    """
    steps = summary.operations_in_order
    start = [f"x_{i}" for i in argnums]
    outputs = [f"y_{i}" for i in range(len(summary.outputs))]
    check_graph(steps, start, outputs, name, forward_mode=forward_mode)
    active = active_arrays(steps, start, in_custom_functions=True)
    differentiated = {step.name for step in steps if not active.isdisjoint(step.inputs)}
    names = [part for part in _WRONG if any(part in operation for operation in differentiated)]
    wrong = [part for part in names if part in _WRONG_JVP or not forward_mode]
    exported_names = {_WRONG[part][0] for part in wrong}
    if wrong and has_complex_operand(fun, primals, summary, wrong, exported_names):
        raise NoRuleError(
            f"MLX computes wrong gradients of {' and '.join(wrong)} for complex numbers, which "
            f"{name} has (mlx#2178). Write {'; '.join(_WRONG[part][1] for part in wrong)}."
        )


def _check_empty_arrays(fun: Fun, primals: Specs, summary: GraphSummary, name: str) -> None:
    """Raise if MLX would end the process: NOTE [empty arrays]."""
    if not any("Scatter" in operation for operation in summary.operations):
        return
    operations = export_operations(fun, primals) or export_batched_operations(fun, primals)
    scatters = [step for step in operations or () if step["name"] == "Scatter"]
    if any(0 in step["inputs"][0][1] for step in scatters):
        raise NoRuleError(
            f"MLX would end the process at indices into an array without elements, which {name} "
            "has. Leave the indexing out where an axis has size 0."
        )


def summarize_checked(fun: Fun, name: str, primals: Specs) -> GraphSummary | None:
    """Summarize the graph of `fun`; raise if MLX would end the process: NOTE [empty arrays]."""
    summary = summarize_graph(fun, primals, name)
    if summary:
        _check_empty_arrays(fun, primals, summary, name)
    return summary
