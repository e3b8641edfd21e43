"""The libraries of JAX whose modules are made, imported when one is made.

NOTE [a Functional in a tree]
A model that holds a bare Functional, and calls it with `net.params`, would be trained without them,
and nobody would say so: `eqx.filter_grad` has None for it. To be found, it is a node of JAX's
trees. What a transformation makes of it raises when its parameters are read, and passes as long as
`apply` is called with others, which the model stores beside it. Flax NNX leaves alone what it does
not know, so it is told that this is data.
"""

import contextlib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bridge._core.errors import MissingFrameworkError

_LIBRARIES = {"nnx": "flax", "equinox": "equinox"}  # our modules, and what they import


def make_view(
    kind: str,
    program: Any,
    params: Mapping[str, Any],
    buffers: Mapping[str, Any],
    **options: Any,
) -> Any:
    """Make a module of a library of JAX, with arrays of its own."""
    params, buffers = ({k: _copy(x) for k, x in xs.items()} for xs in (params, buffers))
    return _load(kind).BridgedModule(program, params, buffers, **options)


def _load(kind: str) -> Any:
    library = _LIBRARIES[kind]
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise MissingFrameworkError(
            f"{library} is not installed (import {library} failed: {error}). "
            f"Install it with: pip install {library}"
        ) from error
    return importlib.import_module(f"{__package__}.{kind}")


def _copy(x: Any) -> Any:
    """Copy an array: the one of the original module may be changed in place."""
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.array(x, copy=True)


class ParametersElsewhere:
    """The leaf that stands for the parameters of a Functional: NOTE [a Functional in a tree]."""

    def __init__(self, functional: Any) -> None:
        self.functional = functional

    def __eq__(self, other: object) -> bool:  # as compilers compare constants
        return isinstance(other, ParametersElsewhere) and self.functional is other.functional

    def __hash__(self) -> int:
        return hash(self.functional)

    def __repr__(self) -> str:
        advice = "which are no leaves here: store net.to_equinox() or net.to_nnx() instead"
        return f"<parameters of {self.functional!r}, {advice}>"


def watch_in_trees(cls: type) -> None:
    """Let trees not lose the parameters of objects of `cls`: NOTE [a Functional in a tree]."""
    if cls not in _watched:
        _watched.add(cls)
        with contextlib.suppress(ValueError):  # a subclass that its author has registered
            jax.tree_util.register_pytree_node(cls, _flatten, _rebuild)
    _tell_nnx(cls)


_watched = set[type]()


def _tell_nnx(cls: type) -> None:
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None:
        nnx.register_data_type(cls)


def _flatten(functional: Any) -> tuple[Any, Any]:
    _tell_nnx(ParametersElsewhere)  # it may have been imported after the class was registered
    original = functional.original
    is_original = functional is original
    return (ParametersElsewhere(original) if is_original else functional.stand_in,), original


def _rebuild(original: Any, children: Any) -> Any:
    (leaf,) = children
    return original.as_transformed(leaf)
