"""What a wrapper at the top of a module costs a process that has not called anything yet."""

import json
import subprocess
import sys

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement

_WRAPPERS = ("jax2torch", "torch2jax", "mlx2torch", "mlx2jax", "torch2mlx", "jax2mlx")
_REFERENCE = "import torch"
# The frameworks are there before, as in a module that defines the function to be wrapped.
_PROGRAM = """
import json, sys, time
start = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - start
import jax.numpy, mlx.core
import bridge
wrap = getattr(bridge, sys.argv[1])  # which imports what the wrapper is defined in
before = set(sys.modules)
start = time.perf_counter()
wrap(lambda x: x)
seconds = time.perf_counter() - start
print(json.dumps([torch_seconds, seconds, sorted(set(sys.modules) - before)]))
"""


def wrapping(effort: Effort) -> list[Measurement]:
    """Each wrapper, called once in processes of its own."""
    values: dict[str, list[float]] = {_REFERENCE: []}
    imported: dict[str, list[str]] = {}
    for _ in range(effort.repeats):
        imports = []
        for name in _WRAPPERS:
            import_seconds, seconds, imported[name] = _measure(name)
            imports.append(import_seconds)
            values.setdefault(name, []).append(seconds * 1e6)
        values[_REFERENCE].append(min(imports) * 1e6)
    return [
        Measurement(
            title="wrapping a function, the first in a process",
            unit="us",
            values=values,
            reference=_REFERENCE,
            bars=[Bar(f"{n}, a thousandth of it", n, _REFERENCE, 0.001) for n in _WRAPPERS],
            notes=[_note(imported)],
        )
    ]


def _measure(wrapper: str) -> tuple[float, float, list[str]]:
    command = [sys.executable, "-c", _PROGRAM, wrapper]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _note(imported: dict[str, list[str]]) -> str:
    told = [f"{name}: {', '.join(modules)}" for name, modules in imported.items() if modules]
    return f"Imported by that: {'; '.join(told) or 'nothing'}."
