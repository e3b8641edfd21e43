"""Rows that need processes of their own: peak memory, compile time, the compilation cache."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._contenders import OURS, RECOMPUTE, SAVE
from benchmarks._machine import Effort
from benchmarks._quantum import PURE
from benchmarks._results import Bar, Measurement


def memory(effort: Effort) -> list[Measurement]:
    """Peak memory of the largest training step, and what the first calls with a bar took."""
    qubits = max(effort.qubits)
    with tempfile.TemporaryDirectory() as folder:
        found = {PURE: _child(PURE, qubits), OURS: _child(OURS, qubits, _caching(folder))}
        # One of the two is what the default compiled, whose first call was measured.
        first_calls = {name: [one] for name, one in found.items()}
        found |= {name: _child(name, qubits, _caching(folder)) for name in (SAVE, RECOMPUTE)}
    peak = Measurement(
        title=f"peak memory of the training step, {qubits} qubits",
        unit="MB",
        values={name: [one["memory"]] for name, one in found.items()},
        reference=PURE,
        bars=[
            Bar("within 1.1x pure JAX", OURS, PURE, 1.1),
            Bar("memory of recompute against save", RECOMPUTE, SAVE),
        ],
        notes=["Growth of the resident memory during one step, after two others."],
    )
    return [peak, _first_call(qubits, first_calls)]


def compiling(effort: Effort) -> list[Measurement]:
    """The first call of the smallest training step, traced and compiled."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(effort.repeats):
        for name in (PURE, OURS, RECOMPUTE):
            found.setdefault(name, []).append(_child(name, min(effort.qubits)))
    return [_first_call(min(effort.qubits), found)]


def _first_call(qubits: int, found: Mapping[str, Sequence[dict[str, float]]]) -> Measurement:
    limit = 1.2 if qubits == 4 else 1.3
    return Measurement(
        title=f"first call of the training step, {qubits} qubits",
        unit="s",
        values={name: [one["first_call"] for one in each] for name, each in found.items()},
        reference=PURE,
        bars=[Bar(f"within {limit:g}x jax.jit(jax.value_and_grad)", OURS, PURE, limit)],
    )


def cache(effort: Effort) -> list[Measurement]:
    """The first call in a second process, with JAX's persistent compilation cache."""
    values: dict[str, list[float]] = {}
    notes = []
    for name in (PURE, OURS):
        with tempfile.TemporaryDirectory() as folder:
            for when in ("first process", "second process"):
                before = len(_entries(folder))
                told = _child(name, min(effort.qubits), _caching(folder))
                values[f"{name}, {when}"] = [told["first_call"]]
            notes.append(f"{name}: {before} programs cached, {len(_entries(folder)) - before} new.")
    second, first = f"{OURS}, second process", f"{OURS}, first process"
    return [
        Measurement(
            title=f"first call with the persistent cache, {min(effort.qubits)} qubits",
            unit="s",
            values=values,
            reference=f"{PURE}, first process",
            bars=[
                Bar("the second process is faster", second, first, 0.9),
                Bar("the second process against pure JAX", second, f"{PURE}, second process", 1.3),
            ],
            notes=notes,
        )
    ]


def _caching(folder: str) -> dict[str, str]:
    """The environment in which JAX keeps in `folder` all that it compiles."""
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _entries(folder: str) -> list[Path]:
    return list(Path(folder).glob("*-cache"))


def _child(
    contender: str, qubits: int, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """What a fresh process says of a contender."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._child", contender, str(qubits)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{contender} at {qubits} qubits failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
