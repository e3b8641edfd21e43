"""Functions that look at values, checked where a derivative of them is taken.

NOTE [values without a graph]
What a function computes by NumPy, or of a number that it asked for, has no graph, and MLX takes its
derivative for 0. Where no graph leads from an argument to a result, the function is run once more,
with that argument moved a little: if the result changes, its derivative is not 0.
"""

from collections.abc import Sequence

import mlx.core as mx

from bridge._arrays.mlx import as_constants, transforming
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions
from bridge._sources.mlx.dot_graph import Step, read_graph
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.random import Fun, rng_state, with_rng_key
from bridge._sources.mlx.upstream_bugs import check_graph

_LEAST = 3e-4  # functions of float64 are as accurate as those of float32


def check_value_use(fun: Fun, at: tuple[Positions, Positions], name: str) -> Fun:
    """`fun`, which looks at values; it raises in transformations that would have it wrong.

    Args:
        fun: It returns a node of its own for each result.
        at: The positions of its arguments among all, and of its results.
        name: Of it.
    """

    def run(*xs: mx.array) -> list[mx.array]:
        key = mx.array(rng_state())
        ys = fun(*xs)
        if transforming():
            _check(fun, xs, ys, at, key, name)
        return ys

    return run


def _check(
    fun: Fun,
    xs: Sequence[mx.array],
    ys: Sequence[mx.array],
    at: tuple[Positions, Positions],
    key: mx.array,
    name: str,
) -> None:
    names = {f"x_{i}": x for i, x in enumerate(xs)} | {f"y_{i}": y for i, y in enumerate(ys)}
    steps = read_graph(ys, names) if ys else ()
    starts = [f"x_{i}" for i in range(len(xs))]
    check_graph(steps, starts, [f"y_{i}" for i in range(len(ys))], name, forward=False)
    smooth = [j for j, y in enumerate(ys) if mx.issubdtype(y.dtype, mx.inexact)]
    for i, x in enumerate(xs):
        reached = _reached(steps, f"x_{i}")
        apart = [j for j in smooth if f"y_{j}" not in reached]
        if apart and mx.issubdtype(x.dtype, mx.inexact) and x.size:
            changed = _find_changed_result(fun, xs, ys, i, apart, key)
            if changed is not None:
                raise NoRuleError(_text(name, at[1][changed], at[0][i]))


def _reached(steps: Sequence[Step], start: str) -> set[str]:
    reached = {start}
    for step in steps:
        if not reached.isdisjoint(step.inputs):
            reached.update(step.outputs)
    return reached


def _find_changed_result(
    fun: Fun,
    xs: Sequence[mx.array],
    ys: Sequence[mx.array],
    moving: int,
    apart: Sequence[int],
    key: mx.array,
) -> int | None:
    """The first result of those `apart` that changes with an argument, if there is one."""
    others = as_constants(xs)
    others[moving] = _moved(others[moving])
    with dry_run(), with_rng_key(key):
        results = fun(*others)
    before, after = (as_constants([each[j] for j in apart]) for each in (ys, results))
    for j, y, z in zip(apart, before, after, strict=True):
        if not mx.array_equal(y, z, equal_nan=True).item():
            return j
    return None


def _text(name: str, result: int, argument: int) -> str:
    return (
        f"result {result} of {name} changes with its array {argument}, and MLX has no graph "
        "between them, so that the derivative would be 0: NumPy and .item() take values out of it. "
        "Compute with mlx.core alone; or give that part a rule of its own, with "
        "mx.custom_function."
    )


def _moved(x: mx.array) -> mx.array:
    step = max(mx.finfo(x.dtype).eps ** 0.5, _LEAST)
    direction = mx.random.normal(x.shape, key=mx.random.key(1)).astype(x.dtype)
    return x + (step * direction * mx.maximum(mx.abs(x), 1)).astype(x.dtype)
