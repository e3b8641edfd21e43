"""Functions of MLX that are rerun on every call, since they look at values.

The arrays that they evaluate have derivatives nevertheless: NOTE [values within transformations].
"""

import mlx.core as mx

from bridge._arrays.mlx import (
    ARRAYS as ARRAYS,
    compute_stream,
    dtype_of,
    keeping_graph,
    transforming,
)
from bridge._core.op import Specs
from bridge._core.spec import ArraySpec
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.graph_summary import has_float64
from bridge._sources.mlx.random import Fun, detect_rng_use


def keep_graphs(fun: Fun) -> Fun:
    """Return `fun` so that MLX keeps its graph: NOTE [values within transformations]."""

    def run(*xs: mx.array) -> list[mx.array]:
        return keeping_graph(lambda: fun(*xs)) if transforming() else fun(*xs)

    return run


def observe_outputs(fun: Fun, primals: Specs, name: str) -> tuple[Specs, bool]:
    """Return the output specs, and True if it draws random numbers: NOTE [example inputs]."""
    with compute_stream(has_float64=has_float64(primals)), dry_run():
        try:
            outputs, uses_rng = detect_rng_use(lambda: fun(*example_inputs(primals)))
        except Exception as error:
            error.add_note(
                f"{name} looks at values, so that it was first run on made-up values to learn what "
                "it returns: floats between 0 and 1, and integers 0."
            )
            raise
        return tuple(map(ARRAYS.spec, outputs)), uses_rng


def example_inputs(primals: Specs) -> list[mx.array]:
    """Make values for arrays of these specs: NOTE [example inputs]."""
    keys = mx.random.split(mx.random.key(0), max(1, len(primals)))
    return [
        _example_input(spec, key) for spec, key in zip(primals, keys[: len(primals)], strict=True)
    ]


def _example_input(spec: ArraySpec, key: mx.array) -> mx.array:
    dtype = dtype_of(spec.dtype)
    if not spec.differentiable:
        return mx.zeros(spec.shape, dtype)
    return mx.random.uniform(shape=spec.shape, key=key).astype(dtype)
