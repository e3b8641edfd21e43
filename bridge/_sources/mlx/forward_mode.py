"""Forward mode: by `mx.jvp` where that is right, by reverse mode elsewhere.

NOTE [forward mode by reverse mode]
A gradient is linear in its cotangents, and the gradient of that by the cotangents is the map of
tangents. It takes twice as long, and exists where MLX has no jvp, as of convolutions. mx.jvp of a
custom function ignores its gradient rule, that of `irfft` is wrong for odd sizes, and that of
`addmm` ignores its factors.
"""

from collections.abc import Callable

import mlx.core as mx

from bridge._arrays.mlx import compute_stream
from bridge._arrays.mlx.upstream.errors import describe_missing_rule
from bridge._core.errors import NoRuleError
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.eager import example_inputs
from bridge._sources.mlx.export import export_operations
from bridge._sources.mlx.function import PureFunction
from bridge._sources.mlx.graph_summary import GraphSummary, has_float64, summarize_graph
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
            if describe_missing_rule(error) is None:
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


def check_linear(vjp: PureFunction, primal_count: int, name: str) -> None:
    """Raise if gradients are not linear in the cotangents, so that no tangents follow from them.

    Args:
        vjp: The gradients as a function of primals and cotangents.
        primal_count: How many primals there are.
        name: The name of the function that is differentiated.
    """
    count = len(vjp.primals)
    if count == primal_count or not vjp.outputs:
        return

    def transpose(*args: mx.array) -> list[mx.array]:
        xs, cotangents, tangents = args[:primal_count], args[primal_count:count], args[count:]
        gradients = lambda *c: separate_nodes(vjp.fun(*xs, *c))
        return mx.vjp(gradients, list(cotangents), list(tangents))[1]

    specs = (*vjp.primals, *vjp.outputs)
    summary = summarize_graph(transpose, specs, name)
    positions = frozenset(range(primal_count, count))
    with compute_stream(has_float64=has_float64(specs)), dry_run():
        args = example_inputs(specs)
        xs, cotangents, tangents = args[:primal_count], args[primal_count:count], args[count:]
        results = transpose(*args)
        if summary:
            is_constant = not any(positions & argnums for argnums in summary.dependencies)
        else:
            zeros = [mx.zeros_like(c) for c in cotangents]
            is_constant = all(map(_all_close, results, transpose(*xs, *zeros, *tangents)))
        gradients = vjp.fun(*xs, *cotangents)
        is_transpose = _have_equal_products((gradients, tangents), (cotangents, results))
    if not (is_constant and is_transpose):
        raise NoRuleError(
            f"{name} has no forward mode: the rule of a custom function in it ignores its "
            "cotangent, or is not linear in it, as where gradients are clipped, so that no tangent "
            "follows from it. Give it a forward rule, with its .jvp, or use reverse mode."
        )


def _all_close(x: mx.array, y: mx.array) -> bool:
    return bool(mx.allclose(x, y, rtol=1e-3, atol=1e-5, equal_nan=True).item())


def _have_equal_products(*pairs: tuple[list[mx.array], list[mx.array]]) -> bool:
    """Return True if the inner products of pairs of lists are equal, but for rounding."""
    # A sum in half precision would overflow.
    products = [[mx.array(1.0) * a * b for a, b in zip(*pair, strict=True)] for pair in pairs]
    zero = mx.array(0.0)
    left, right = (sum((x.sum() for x in xs), zero) for xs in products)
    size = sum((mx.abs(x).sum() for xs in products for x in xs), zero)
    # True for NaN too, which says nothing.
    return not bool((mx.abs(left - right) > 0.01 * size).item())
