"""Functions of MLX that run anew on each call, since they look at values.

What they evaluate is part of a derivative nevertheless: NOTE [values within transformations].

NOTE [made-up values]
What such a function returns is not known before it runs. So it is run once, on values that are
made up: between 0 and 1 by a fixed key, integers 0.
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


def caching_last_call(fun: Fun) -> Fun:
    """`fun`, whatever of it is evaluated: NOTE [values within transformations]."""

    def run(*xs: mx.array) -> list[mx.array]:
        return keeping_graph(lambda: fun(*xs)) if transforming() else fun(*xs)

    return run


def observe_outputs(fun: Fun, primals: Specs, name: str) -> tuple[Specs, bool]:
    """Specs of the results, and whether random numbers are drawn: NOTE [made-up values]."""
    with compute_stream(has_float64=has_float64(primals)), dry_run():
        try:
            found, drew = detect_rng_use(lambda: fun(*example_inputs(primals)))
        except Exception as error:
            error.add_note(
                f"{name} looks at values, so that it was first run on others, made up to learn "
                "what it returns: between 0 and 1, and integers 0."
            )
            raise
        return tuple(map(ARRAYS.spec, found)), drew


def example_inputs(primals: Specs) -> list[mx.array]:
    """Values for arrays of these specs: NOTE [made-up values]."""
    keys = mx.random.split(mx.random.key(0), max(1, len(primals)))
    return [_like(spec, key) for spec, key in zip(primals, keys[: len(primals)], strict=True)]


def _like(spec: ArraySpec, key: mx.array) -> mx.array:
    dtype = dtype_of(spec.dtype)
    if not spec.differentiable:
        return mx.zeros(spec.shape, dtype)
    return mx.random.uniform(shape=spec.shape, key=key).astype(dtype)
