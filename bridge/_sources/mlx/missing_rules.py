"""What MLX says where it lacks a rule, and where a function looks at values."""

import contextlib
import re
from collections.abc import Generator

from bridge._core.errors import ArgumentError, NoRuleError

_VALUELESS = "Attempting to eval an array without a primitive"
_LOOKING = (
    *("during function transformations", "Not allowed inside a graph transformation"),
    _VALUELESS,
)
_PRIMITIVE = re.compile(r"^\[Primitive::(vjp|jvp|vmap)\] Not implemented for (\w+)")
_MEANT = {"vjp": "derivative", "jvp": "derivative", "vmap": "batched form"}
_OTHER = re.compile(
    r"^(?=.*\b(vjp|jvp|vmap|gradient)\b)(\[|\w+::|JVP)"
    r".*(not( yet)? (implemented|supported)|NYI|cannot|\bno (gradient|jvp)\b|invalid arg index)",
    re.IGNORECASE,
)


def looks_at_values(error: Exception) -> bool:
    """Whether MLX refused to evaluate an array that has no values."""
    return any(sign in str(error) for sign in _LOOKING)


def missing_rule(error: Exception) -> str | None:
    """What MLX has no formula for, if that is what it says."""
    found = _PRIMITIVE.match(str(error))
    if found:
        return f"MLX has no {_MEANT[found[1]]} of {found[2]}"
    return "MLX lacks a formula" if _OTHER.match(str(error)) else None


@contextlib.contextmanager
def raise_no_rule(name: str) -> Generator[None]:
    """Raise `NoRuleError` in here where MLX lacks a formula."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        what = missing_rule(error)
        if what is None:
            raise
        raise NoRuleError(
            f"{name} cannot be had: {what} ({error}). Write that part by other operations, or give "
            "it a rule of its own with mx.custom_function."
        ) from error


def raise_for_leftovers(error: RuntimeError, name: str) -> None:
    """Raise `ArgumentError` if a call came upon an array of a run that had no values."""
    if _VALUELESS in str(error):
        raise ArgumentError(
            f"{name} came upon an array that it had put aside when it ran without values, to make "
            "a graph, in a place where bridge cannot undo that. Take what it keeps as an argument, "
            "and return its new value."
        ) from error
