"""The operations of a function, with shapes and dtypes, as MLX exports them."""

from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import computing
from bridge._core.op import Specs
from bridge._sources.mlx.dry_run import looking
from bridge._sources.mlx.graph_summary import is_wide, placeholders
from bridge._sources.mlx.random import Fun


def steps(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """The operations of `fun`; `None` where MLX cannot export them."""
    notes = exported(fun, primals)
    return notes and [note for note in notes if note["type"] == "primitive"]


def exported(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """What MLX writes of `fun`; `None` where it cannot, as of a custom function."""
    notes, whole = exports(fun, primals)
    return notes if whole else None


def exports(fun: Fun, primals: Specs) -> tuple[list[dict[str, Any]], bool]:
    """What MLX writes of `fun` until it gives up, and whether it does not."""
    notes: list[dict[str, Any]] = []
    try:
        with computing(wide=is_wide(primals)), looking():
            mx.export_function(notes.append, fun, *placeholders(primals))
    except (ValueError, RuntimeError):
        return notes, False
    return notes, True


def steps_of_batch(fun: Fun, primals: Specs) -> list[dict[str, Any]] | None:
    """Those of a batch of one example, in which custom functions are what they compute.

    MLX exports no custom functions; a batch has what is in them in their place.
    """
    return steps(mx.vmap(fun), tuple(spec.grown(0, 1) for spec in primals)) if primals else None
