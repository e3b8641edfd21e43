"""Forward mode, where `mx.jvp` has it right, and by reverse mode elsewhere.

NOTE [forward mode by reverse mode]
A gradient is linear in its cotangents, and the gradient of that, by the cotangents, is the map of
tangents. It takes twice as long, and is there where MLX has no jvp, as of convolutions. mx.jvp of
a custom function knows nothing of its gradient rule, that of `irfft` is wrong for odd sizes, and
that of `addmm` leaves its factors out.
"""

from collections.abc import Callable

import mlx.core as mx

from bridge._arrays.mlx import compute_stream, dtype_of
from bridge._core.errors import NoRuleError
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.eager import example_inputs
from bridge._sources.mlx.exported import exported_operations
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64
from bridge._sources.mlx.missing_rules import missing_rule
from bridge._sources.mlx.nodes import separate_nodes
from bridge._sources.mlx.random import Fun

Push = Callable[[Fun, list[mx.array], list[mx.array]], list[mx.array]]


def jvp_is_unreliable(fun: Fun, primals: Specs, known: GraphSummary) -> bool:
    """Whether `mx.jvp` of its operations may be wrong: NOTE [forward mode by reverse mode]."""
    if "FFT" in known.operations:
        return True
    if "AddMM" not in known.operations:
        return False
    found = exported_operations(fun, primals)
    sums = [step["arguments"] for step in found or () if step["name"] == "AddMM"]
    return found is None or any(factors != [1, 1] for factors in sums)


def checked_jvp(check: Callable[[], None]) -> Push:
    """`mx.jvp`; where MLX lacks one, reverse mode twice, if `check` does not raise."""

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
    """The tangents of `fun` by forward rules of the user: `mx.jvp`, which alone calls them."""
    return mx.jvp(fun, xs, tangents)[1]


def double_vjp(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
    """The tangents of `fun`: NOTE [forward mode by reverse mode]."""

    def gradients(*cotangents: mx.array) -> list[mx.array]:
        return separate_nodes(mx.vjp(fun, xs, list(cotangents))[1])

    zeros = [mx.zeros_like(y) for y in fun(*xs)]
    return mx.vjp(gradients, zeros, tangents)[1]


def check_linear(
    slope: Fun, specs: Specs, known: GraphSummary | None, primals: int, name: str
) -> None:
    """Raise where a gradient is not 0 for cotangents of 0, so that no tangent follows from it.

    Args:
        slope: The gradient, of primals and cotangents.
        specs: Specs of these.
        known: What its graph says.
        primals: How many primals there are.
        name: Of the function that is differentiated.
    """
    alone = (
        [i for i, reach in enumerate(known.dependencies) if max(reach, default=-1) < primals]
        if known
        else []
    )
    if not alone:
        return
    with compute_stream(has_float64=has_float64(specs)), dry_run():
        xs = example_inputs(specs[:primals])
        zeros = [mx.zeros(spec.shape, dtype_of(spec.dtype)) for spec in specs[primals:]]
        gradients = slope(*xs, *zeros)
        wrong = [mx.any(mx.abs(gradients[i]) > 0).item() for i in alone]
    if any(wrong):
        raise NoRuleError(
            f"forward mode of {name} cannot be had: the rule of a custom function in it ignores "
            "its cotangent, so that no tangent follows from it. Multiply by the cotangent, or give "
            "it a forward rule, with its .jvp."
        )
