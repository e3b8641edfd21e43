"""The machine: how its cores are shared out, and what it is."""

import dataclasses
import importlib.metadata
import os
import platform
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        quick: Whether a rough answer is enough.
        peers: Whether the other libraries take part.
    """

    quick: bool
    peers: bool

    def seconds(self, full: float) -> float:
        """The time for a case that gets `full` seconds in a full run."""
        return full / 5 if self.quick else full

    @property
    def repeats(self) -> int:
        """How often a fresh process is started for one number."""
        return 1 if self.quick else 3

    @property
    def qubits(self) -> tuple[int, ...]:
        """The sizes of the quantum circuit."""
        return (4,) if self.quick else (4, 8, 12)


def settle() -> None:
    """Give the cores to JAX.

    The threads of torch spin for a while after each parallel operation, and on few cores they
    spin where JAX wants to compute: with two torch threads on two busy cores PennyLane's own
    torch backprop at 12 qubits took eight times as long as with one. Every contender of one
    process has the same setting.
    """
    torch.set_num_threads(1)


def describe() -> str:
    """Processor, cores and versions."""
    packages = ("torch", "jax", "jaxlib", "mlx", "numpy", "pennylane")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}; Python "
        f"{platform.python_version()}, {', '.join(versions)}; torch.set_num_threads(1)"
    )


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
