"""Forward mode: by `mx.jvp` where that is right, by reverse mode elsewhere.

NOTE [forward mode by reverse mode]
A gradient is linear in its cotangents, and the gradient of that by the cotangents is the map of
tangents. It takes twice as long, and exists where MLX has no jvp, as of convolutions. mx.jvp of a
custom function ignores its gradient rule, that of `irfft` is wrong for odd sizes, and that of
`addmm` ignores its factors.
"""

from collections.abc import Callable

import mlx.core as mx

from bridge._arrays.mlx import compute_stream, dtype_of
from bridge._core.errors import NoRuleError
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.eager import example_inputs
from bridge._sources.mlx.export import export_operations
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64
from bridge._sources.mlx.missing_rules import missing_rule
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun

# From a function, primals and tangents to the tangents of the outputs.
Pushforward = Callable[[Fun, list[mx.array], list[mx.array]], list[mx.array]]


def jvp_is_unreliable(fun: Fun, primals: Specs, summary: GraphSummary) -> bool:
    """Return True if `mx.jvp` of `fun` may be wrong: NOTE [forward mode by reverse mode]."""
    if "FFT" in summary.operations:
        return True
    if "AddMM" not in summary.operations:
        return False
    operations = export_operations(fun, primals)
    factors = [step["arguments"] for step in operations or () if step["name"] == "AddMM"]
    return operations is None or any(pair != [1, 1] for pair in factors)


def jvp_with_fallback(check: Callable[[], None]) -> Pushforward:
    """Return a pushforward by `mx.jvp`; where that fails, it calls `check`, then `double_vjp`."""

    def push(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
        try:
            return mx.jvp(fun, xs, tangents)[1]
        except (ValueError, RuntimeError) as error:
            if missing_rule(error) is None:
                raise
        check()
        return double_vjp(fun, xs, tangents)

    return push


def jvp_by_rules(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
    """Return the tangents of `fun` by the user's forward rules, which only `mx.jvp` calls."""
    return mx.jvp(fun, xs, tangents)[1]


def double_vjp(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
    """Return the tangents of `fun`: NOTE [forward mode by reverse mode]."""

    def gradients(*cotangents: mx.array) -> list[mx.array]:
        return separate_nodes(mx.vjp(fun, xs, list(cotangents))[1])

    zeros = [mx.zeros_like(y) for y in fun(*xs)]
    return mx.vjp(gradients, zeros, tangents)[1]


def check_linear(
    gradient: Fun, specs: Specs, summary: GraphSummary | None, primals: int, name: str
) -> None:
    """Raise if a gradient is not 0 for cotangents of 0, so that no tangent follows from it.

    Args:
        gradient: The gradient, a function of primals and cotangents.
        specs: The specs of these.
        summary: A summary of its graph.
        primals: How many primals there are.
        name: The name of the function that is differentiated.
    """
    # Only gradients that depend on no cotangent can differ from 0.
    constant = (
        [i for i, argnums in enumerate(summary.dependencies) if max(argnums, default=-1) < primals]
        if summary
        else []
    )
    if not constant:
        return
    with compute_stream(has_float64=has_float64(specs)), dry_run():
        xs = example_inputs(specs[:primals])
        zeros = [mx.zeros(spec.shape, dtype_of(spec.dtype)) for spec in specs[primals:]]
        gradients = gradient(*xs, *zeros)
        wrong = [mx.any(mx.abs(gradients[i]) > 0).item() for i in constant]
    if any(wrong):
        raise NoRuleError(
            f"{name} has no forward mode: the rule of a custom function in it ignores its "
            "cotangent, so that no tangent follows from it. Multiply by the cotangent, or give it "
            "a forward rule, with its .jvp."
        )
