"""Calls from compiled programs through JAX's own callbacks, which copy arguments and results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.interpreters import mlir

from bridge._core.op import Op, Specs
from bridge._targets.jax.calls import Callee
from bridge._targets.jax.ffi_call import get_ffi_call


def lower(
    ctx: Any, operands: Sequence[Any], op: Op, callee: Callee, specs: Specs, *, effect: bool
) -> Sequence[Any]:
    """Emit a call of `op` into a program that is being compiled, which keeps its FfiCall alive.

    With an `effect`, the call is made even if nothing uses its results.
    """
    ffi_call = get_ffi_call(op, callee, specs)

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        results = [np.empty(spec.shape, np.dtype(spec.dtype)) for spec in ffi_call.results]
        # Copies, since the arrays that JAX passes are read-only.
        ffi_call([np.array(x) for x in arrays], results)
        return results

    values, _, _ = mlir.emit_python_callback(
        ctx,
        call,
        None,
        operands,
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=effect,
        returns_token=False,
    )
    return values
