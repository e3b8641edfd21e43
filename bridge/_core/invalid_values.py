"""Notes on errors about NaN that say which bridged call they are from."""

from collections.abc import Sequence


def describe_invalid(
    name: str, frameworks: tuple[str, str], invalid_inputs: Sequence[str] | None = None
) -> str:
    """Say which bridged call has invalid results, and whether they begin in it.

    Args:
        name: The name of the function, or of its derivative.
        frameworks: The names of its source and of its target.
        invalid_inputs: Which inputs were invalid before; None if that is not known.
    """
    source, target = frameworks
    text = f"It is in {name}, computed by {source} for {target}: a call of {source}2{target}."
    if invalid_inputs is None:
        return text
    if invalid_inputs:
        return f"{text} Invalid before were {', '.join(invalid_inputs)}."
    return f"{text} It begins here: no input was invalid."
