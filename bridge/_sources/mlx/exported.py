"""The operations of a function, with shapes and dtypes, as MLX exports them."""

from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import compute_stream
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.graph_summary import has_float64, placeholders
from bridge._sources.mlx.random import Fun


def exported_operations(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """The operations of `fun`; `None` where MLX cannot export them."""
    notes = exported(fun, primals)
    return notes and [note for note in notes if note["type"] == "primitive"]


def exported(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """What MLX writes of `fun`; `None` where it cannot, as of a custom function."""
    notes, whole = try_export(fun, primals)
    return notes if whole else None


def try_export(fun: Fun, primals: Specs) -> tuple[list[dict[str, Any]], bool]:
    """What MLX writes of `fun` until it gives up, and whether it does not."""
    notes: list[dict[str, Any]] = []
    try:
        with compute_stream(has_float64=has_float64(primals)), dry_run():
            mx.export_function(notes.append, fun, *placeholders(primals))
    except (ValueError, RuntimeError):
        return notes, False
    return notes, True


def exported_batch_operations(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """Those of a batch of one example, in which custom functions are what they compute.

    MLX exports no custom functions; a batch has what is in them in their place.
    """
    return (
        exported_operations(mx.vmap(fun), tuple(spec.with_axis(0, 1) for spec in primals))
        if primals
        else None
    )
