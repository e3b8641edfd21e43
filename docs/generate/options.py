"""The options of the wrappers, from their signatures and docstrings."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import bridge
from generate.frameworks import head, row

WRAPPERS = [
    *("jax2torch", "mlx2torch", "torch2jax", "mlx2jax", "torch2mlx", "jax2mlx"),
    *("numpy2torch", "numpy2jax", "numpy2mlx"),
]


def _explained(fn: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says of each argument, a line each."""
    doc = inspect.getdoc(fn) or ""
    section = re.search(r"^Args:\n(.*?)^(?=\S)", doc, re.MULTILINE | re.DOTALL)
    entries = re.split(r"^    (?=\S)", section[1] if section else "", flags=re.MULTILINE)
    pairs = (entry.split(":", 1) for entry in entries if ":" in entry)
    return {name.strip(): " ".join(text.split()) for name, text in pairs}


def _values(parameter: inspect.Parameter) -> str:
    """The type of an option as a reader writes it."""
    annotation = parameter.annotation
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(
        r"\b(?:collections\.abc|typing|concurrent\.futures\.\w+|bridge(?:\.\w+)*)\.", "", text
    )
    return text.replace("|", "\\|")


def page() -> str:
    """A section for each wrapper, a row for each of its options."""
    text = ""
    for name in WRAPPERS:
        wrapper = getattr(bridge, name)
        explained = _explained(wrapper)
        text += f"\n## `{name}`\n\n" + head("option", "takes", "default", "meaning")
        for parameter in inspect.signature(wrapper).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY:
                meaning = explained[parameter.name].replace("|", "\\|")
                default = f"`{parameter.default!r}`"
                text += row(f"`{parameter.name}`", f"`{_values(parameter)}`", default, meaning)
    return text
