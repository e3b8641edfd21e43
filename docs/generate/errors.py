"""The page of errors: each one raised, and what to write instead run."""

import ast
import inspect

import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np
import torch

import bridge
from generate.error_examples import EXAMPLES, Example
from generate.frameworks import head, row


def _names() -> dict[str, object]:
    frameworks = {"jax": jax, "jnp": jnp, "mx": mx, "np": np, "torch": torch}
    public = {name: getattr(bridge, name) for name in dir(bridge) if not name.startswith("_")}
    return {**public, **frameworks, "__name__": "__main__"}


def _raised(example: Example) -> tuple[type, str, dict[str, object]]:
    """The error of the last statement, its text, and the names that the others made."""
    names = _names()
    *before, last = ast.parse(example.code).body
    exec(compile(ast.Module(before, []), "<docs>", "exec"), names)
    made = dict(names)
    try:
        exec(compile(ast.Module([last], []), "<docs>", "exec"), names)
    except Exception as error:  # noqa: BLE001 (which error it is, is what the page says)
        # JAX notes on each of its errors that it has removed frames.
        notes = [x for x in getattr(error, "__notes__", []) if not x.startswith("----")]
        return type(error), "\n".join([str(error), *notes]), made
    raise AssertionError(f"{example.title}: nothing was raised")


def _section(example: Example) -> str:
    kind, said, names = _raised(example)
    exec(compile(example.remedy, "<docs>", "exec"), names)
    return (
        f"## {example.title}\n\n```python\n{example.code}\n```\n\n"
        f"```text\n{kind.__name__}: {said}\n```\n\n"
        f"{example.cause} Instead:\n\n```python\n{example.remedy}\n```\n\n"
    )


def page() -> str:
    """The classes of errors, and an example of most."""
    text = head("class", "is also", "raised for")
    for name in dir(bridge):
        kind = getattr(bridge, name)
        if inspect.isclass(kind) and issubclass(kind, bridge.BridgeError):
            (builtin,) = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
            text += row(f"`{name}`", f"`{builtin}`", inspect.getdoc(kind) or "")
    return text + "\n" + "".join(map(_section, EXAMPLES))
