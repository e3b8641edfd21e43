"""MLX's errors about missing rules and missing values, told apart by their texts.

An error whose text has changed is raised as it is.
"""

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
_RULE_NOUNS = {"vjp": "derivative", "jvp": "derivative", "vmap": "batched form"}
_OTHER = re.compile(
    r"^(?=.*\b(vjp|jvp|vmap|gradient)\b)(\[|\w+::|JVP)"
    r".*(not( yet)? (implemented|supported)|NYI|cannot|\bno (gradient|jvp)\b|invalid arg index)",
    re.IGNORECASE,
)


def looks_at_values(error: Exception) -> bool:
    """Return True if MLX refused to evaluate an array that has no values."""
    return any(text in str(error) for text in _LOOKING)


def describe_missing_rule(error: Exception) -> str | None:
    """Return in words which rule MLX lacks, or `None` if `error` is about something else."""
    match = _PRIMITIVE.match(str(error))
    if match:
        return f"MLX has no {_RULE_NOUNS[match[1]]} of {match[2]}"
    return "MLX lacks a formula" if _OTHER.match(str(error)) else None


@contextlib.contextmanager
def raise_no_rule(name: str) -> Generator[None]:
    """Raise `NoRuleError` within a context where MLX lacks a rule."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        text = describe_missing_rule(error)
        if text is None:
            raise
        raise NoRuleError(
            f"{text}, which {name} needs ({error}). Write that part with other operations, or give "
            "it a rule of its own with mx.custom_function."
        ) from error


def raise_for_leftovers(error: RuntimeError, name: str) -> None:
    """Raise `ArgumentError` if a call met an array of a run that had no values."""
    if _VALUELESS in str(error):
        raise ArgumentError(
            f"{name} uses an array that it stored when it ran without values, to make a graph, in "
            "a place where bridge cannot undo that. Take what it stores as an argument, and return "
            "its new value."
        ) from error
