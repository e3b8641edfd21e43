"""The versions that are allowed, and those that these pages were executed with."""

import importlib.metadata
import re
import sys

from generate.frameworks import head, row

PACKAGE = "gradbridge"


def table() -> str:
    """A row for Python and for each requirement of the package and its framework extras."""
    requirements = importlib.metadata.requires(PACKAGE) or []
    python = ".".join(map(str, sys.version_info[:3]))
    allowed = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    text = head("package", "allowed", "extra", "these pages ran with")
    text += row("Python", f"`{allowed}`", "", python)
    seen = set()
    for requirement in requirements:
        name, bounds = re.match(r"([\w-]+)(?:\[\w+\])?([^;]*)", requirement).groups()
        extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
        extra = extra[1] if extra else ""
        if extra not in ("", "torch", "jax", "mlx") or name in seen:
            continue
        seen.add(name)
        text += row(f"`{name}`", f"`{bounds.strip()}`", extra, importlib.metadata.version(name))
    return text
