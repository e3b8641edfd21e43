"""The arrays of a module after a call: which of them are new, and can take the place of the old."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from bridge._core.errors import ArgumentError

_MISSING = object()


def changed_buffers(
    module: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arrays that a call has replaced, by name; raise if one cannot be stored."""
    removed = sorted({*before} - {*after})
    if removed:
        raise ArgumentError(f"{module} removes {removed[0]!r} in a call. Set it to zeros instead.")
    changes = {name: after[name] for name in before if after[name] is not before[name]}
    for name, array in changes.items():
        _check_spec(module, name, before[name], jnp.asarray(array))
    return {name: jnp.asarray(array) for name, array in changes.items()}


def check_no_attribute_changes(
    module: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Raise if a call has changed an attribute that is no array, which a trace would lose."""
    for name, value in after.items():
        old = before.get(name, _MISSING)
        if value is not old and value != old:
            origin = "" if old is _MISSING else f" from {old!r}"
            raise ArgumentError(
                f"{module} sets its attribute {name!r}{origin} to {value!r} in a call, which would "
                "be lost after it. Keep it in a variable with an array: "
                "`nnx.Variable(jnp.array(...))`."
            )


def check_no_param_changes(module: str, changed: Sequence[str]) -> None:
    """Raise if a call has changed parameters."""
    if changed:
        raise ArgumentError(
            f"{module} changes its parameter {changed[0]!r} in a call, which only optimizers do "
            "here. Make it a variable of another kind, or compute with a changed copy."
        )


def check_no_additions(
    module: str, before: Collection[str], after: Collection[str], advice: str
) -> None:
    """Raise if a call has made arrays."""
    added = sorted({*after} - {*before})
    if added:
        raise ArgumentError(
            f"{module} makes {added[0]!r} in a call, which would be lost after it. {advice}"
        )


def _check_spec(module: str, name: str, old: Any, new: Any) -> None:
    if new.shape == old.shape and np.can_cast(new.dtype, old.dtype, "same_kind"):
        return
    raise ArgumentError(
        f"{module} changes {name!r} from {_spec(old)} to {_spec(new)} in a call. A buffer keeps "
        "its shape and its kind of numbers: make it like that from the start."
    )


def _spec(array: Any) -> str:
    return f"{array.dtype.name}{[*array.shape]}"
