"""Calls from compiled programs through JAX's own callbacks, which copy arguments and results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.interpreters import mlir

from bridge._targets.jax._task import Task


def lower(ctx: Any, operands: Sequence[Any], task: Task) -> Sequence[Any]:
    """A call of `task` in a program that is being compiled, which keeps it alive."""

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        results = [np.empty(spec.shape, np.dtype(spec.dtype)) for spec in task.results]
        task([np.array(x) for x in arrays], results)  # what JAX hands in is read-only
        return results

    values, _, _ = mlir.emit_python_callback(
        ctx,
        call,
        None,
        operands,
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return values
