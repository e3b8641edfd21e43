"""The operations of a function, with shapes and dtypes, as MLX exports them."""

from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import compute_stream
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.graph_summary import has_float64, placeholders
from bridge._sources.mlx.random import Fun


def export_operations(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """Return the operations of `fun`; None where MLX cannot export them."""
    records = export(fun, primals)
    return records and [record for record in records if record["type"] == "primitive"]


def export(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """Return the records of an export of `fun`; None where MLX fails, as on a custom function."""
    records, complete = try_export(fun, primals)
    return records if complete else None


def try_export(fun: Fun, primals: Specs) -> tuple[list[dict[str, Any]], bool]:
    """Return the records that MLX exports of `fun`, and False if it failed before the last one."""
    records: list[dict[str, Any]] = []
    try:
        with compute_stream(has_float64=has_float64(primals)), dry_run():
            mx.export_function(records.append, fun, *placeholders(primals))
    except (ValueError, RuntimeError):
        return records, False
    return records, True


def export_batched_operations(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """Return the operations of `fun` on a batch of one example; None where MLX cannot export them.

    MLX exports no custom functions, but a batch has the operations inside of them in their place.
    """
    return (
        export_operations(mx.vmap(fun), tuple(spec.with_axis(0, 1) for spec in primals))
        if primals
        else None
    )
