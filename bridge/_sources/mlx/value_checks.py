"""Functions that look at values, checked where a derivative of them is computed.

NOTE [values without a graph]
What a function computes by NumPy, or from a number that it asked for, has no graph, and MLX takes
its derivative for 0. Where no graph leads from an argument to an output, the function is run once
more with that argument changed a little: if the output changes, its derivative is not 0.
"""

from collections.abc import Sequence

import mlx.core as mx

from bridge._arrays.mlx import copy_as_constants, transforming
from bridge._arrays.mlx.upstream.dot_graph import Step, read_graph
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.random import Fun, rng_state, with_rng_key
from bridge._sources.mlx.upstream_bugs import check_graph

_LEAST = 3e-4  # functions of float64 are as accurate as those of float32


def check_value_use(fun: Fun, positions: tuple[Positions, Positions], name: str) -> Fun:
    """Return `fun`, which looks at values, so that it raises where MLX would lose a derivative.

    Args:
        fun: A function that returns a separate node for each output.
        positions: The positions of its arguments among all primals, and of its outputs.
        name: The name of the function.
    """

    def run(*xs: mx.array) -> list[mx.array]:
        key = mx.array(rng_state())
        ys = fun(*xs)
        if transforming():
            _check(fun, xs, ys, positions, key, name)
        return ys

    return run


def _check(
    fun: Fun,
    xs: Sequence[mx.array],
    ys: Sequence[mx.array],
    positions: tuple[Positions, Positions],
    key: mx.array,
    name: str,
) -> None:
    """Raise if an output changes with an argument that it is not connected to by the graph."""
    names = {f"x_{i}": x for i, x in enumerate(xs)} | {f"y_{i}": y for i, y in enumerate(ys)}
    steps = read_graph(ys, names) if ys else ()
    starts = [f"x_{i}" for i in range(len(xs))]
    check_graph(steps, starts, [f"y_{i}" for i in range(len(ys))], name, forward_mode=False)
    differentiable = [j for j, y in enumerate(ys) if mx.issubdtype(y.dtype, mx.inexact)]
    for i, x in enumerate(xs):
        connected = _connected_to(steps, f"x_{i}")
        unconnected = [j for j in differentiable if f"y_{j}" not in connected]
        if unconnected and mx.issubdtype(x.dtype, mx.inexact) and x.size:
            changed = _find_changed_output(fun, xs, ys, i, unconnected, key)
            if changed is not None:
                raise NoRuleError(_error_text(name, positions[1][changed], positions[0][i]))


def _connected_to(steps: Sequence[Step], start: str) -> set[str]:
    """Return the names of the arrays that are computed from the array named `start`."""
    connected = {start}
    for step in steps:
        if not connected.isdisjoint(step.inputs):
            connected.update(step.outputs)
    return connected


def _find_changed_output(
    fun: Fun,
    xs: Sequence[mx.array],
    ys: Sequence[mx.array],
    argnum: int,
    outnums: Sequence[int],
    key: mx.array,
) -> int | None:
    """Return the first of `outnums` whose output changes with the argument, if there is one."""
    arguments = copy_as_constants(xs)
    arguments[argnum] = _perturb(arguments[argnum])
    with dry_run(), with_rng_key(key):
        outputs = fun(*arguments)
    before, after = (copy_as_constants([results[j] for j in outnums]) for results in (ys, outputs))
    for j, y, z in zip(outnums, before, after, strict=True):
        if not mx.array_equal(y, z, equal_nan=True).item():
            return j
    return None


def _error_text(name: str, outnum: int, argnum: int) -> str:
    return (
        f"result {outnum} of {name} changes with its array {argnum}, and MLX has no graph "
        "between them, so that the derivative would be 0: NumPy and .item() take values out of it. "
        "Compute with mlx.core alone; or give that part a rule of its own, with "
        "mx.custom_function."
    )


def _perturb(x: mx.array) -> mx.array:
    """Return `x` with each element changed a little, in a random direction."""
    step = max(mx.finfo(x.dtype).eps ** 0.5, _LEAST)
    direction = mx.random.normal(x.shape, key=mx.random.key(1)).astype(x.dtype)
    return x + (step * direction * mx.maximum(mx.abs(x), 1)).astype(x.dtype)
