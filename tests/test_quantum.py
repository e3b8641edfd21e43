"""The short form of `nox -s quantum`, in a process of its own.

Importing PennyLane 0.45 makes tracers of JAX hashable, which other tests would notice.
"""

import importlib.util
import subprocess
import sys

import pytest

from tests.processes import ROOT

NEEDED = ("torch", "jax", "pennylane")


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason=f"one of {NEEDED} is missing"
)
def test_circuits():
    chosen = ["-q", "-p", "no:cacheprovider", "-m", "quantum", "tests/quantum/test_circuits.py"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *chosen],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "2 passed" in result.stdout
