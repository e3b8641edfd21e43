"""Typed keys as arrays of their words: the operations that move keys move one more axis."""

from collections.abc import Callable, Sequence
from typing import Any

from bridge._arrays.jax.upstream.primitives import key_shape
from bridge._core.spec import ArraySpec
from bridge._sources.jax.listing.builder import GraphBuilder, Value

Parameters = dict[str, Any]


def translate_keys(
    builder: GraphBuilder, eqn: Any, operands: Sequence[Value], specs: Sequence[ArraySpec]
) -> list[Value] | None:
    """Add an equation on keys, whose specs are those of their words; None if it moves no keys."""
    move = _MOVES.get(eqn.primitive.name)
    if move is None:
        return None
    words = key_shape(eqn.outvars[0].aval)
    word, parameters = move(eqn, words)
    return builder.add(word, operands, specs, **parameters)


def _slice(eqn: Any, words: tuple[int, ...]) -> tuple[str, Parameters]:
    params, rank = eqn.params, len(words)
    strides = params["strides"]
    return "slice", {
        "start_indices": (*params["start_indices"], *(0,) * rank),
        "limit_indices": (*params["limit_indices"], *words),
        "strides": strides and (*strides, *(1,) * rank),
    }


def _reshape(*_: Any) -> tuple[str, Parameters]:
    return "reshape", {}


def _broadcast(eqn: Any, words: tuple[int, ...]) -> tuple[str, Parameters]:
    rank = len(eqn.params["shape"])
    added = range(rank, rank + len(words))
    return "broadcast_in_dim", {
        "broadcast_dimensions": (*eqn.params["broadcast_dimensions"], *added)
    }


def _transpose(eqn: Any, words: tuple[int, ...]) -> tuple[str, Parameters]:
    permutation = eqn.params["permutation"]
    added = range(len(permutation), len(permutation) + len(words))
    return "transpose", {"permutation": (*permutation, *added)}


def _concatenate(eqn: Any, _: Any) -> tuple[str, Parameters]:
    return "concatenate", {"dimension": eqn.params["dimension"]}


_MOVES: dict[str, Callable[[Any, tuple[int, ...]], tuple[str, Parameters]]] = {
    "slice": _slice,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "reshape": _reshape,
    "broadcast_in_dim": _broadcast,
    "transpose": _transpose,
    "concatenate": _concatenate,
}
