"""The arrays of a module after a call: which of them are new, and can take the place of the old."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from bridge._core.errors import ArgumentError


def find_changes(
    module: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arrays that a call has replaced, by name; raise if one cannot be stored."""
    _check_names(module, before, after)
    changes = {name: after[name] for name in before if after[name] is not before[name]}
    for name, array in changes.items():
        _check_spec(module, name, before[name], jnp.asarray(array))
    return {name: jnp.asarray(array) for name, array in changes.items()}


def check_no_changes(module: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise if a call has replaced one of these parameters."""
    changed = [name for name in before if name in after and after[name] is not before[name]]
    if changed:
        raise ArgumentError(
            f"{module} changes its parameter {changed[0]!r} in a call, which only optimizers do "
            "here. Make it another kind of variable, or compute with a changed copy."
        )


def _check_names(module: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    added, removed = sorted({*after} - {*before}), sorted({*before} - {*after})
    if added:
        raise ArgumentError(
            f"{module} makes {added[0]!r} in a call, which would be lost after it. Call the module "
            "once with an example before it is wrapped, or make all arrays where it is made."
        )
    if removed:
        raise ArgumentError(f"{module} removes {removed[0]!r} in a call. Set it to zeros instead.")


def _check_spec(module: str, name: str, old: Any, new: Any) -> None:
    if new.shape == old.shape and np.can_cast(new.dtype, old.dtype, "same_kind"):
        return
    raise ArgumentError(
        f"{module} changes {name!r} from {_spec(old)} to {_spec(new)} in a call. A buffer keeps "
        "its shape and its kind of numbers: make it like that from the start."
    )


def _spec(array: Any) -> str:
    return f"{array.dtype.name}{[*array.shape]}"
