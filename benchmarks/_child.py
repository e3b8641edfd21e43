"""What only a fresh process can tell: the first call of a contender, and its peak memory.

python -m benchmarks._child CONTENDER QUBITS prints both as JSON.
"""

import ctypes
import json
import resource
import sys
import time
from pathlib import Path

import jax

from benchmarks import _quantum
from benchmarks._machine import settle
from benchmarks._timing import Step

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def main(contender: str, qubits: int) -> None:
    """Take three training steps."""
    settle()
    with jax.enable_x64(True):  # noqa: FBT003, as JAX spells it
        step = _step(contender, qubits)
        jax.block_until_ready(jax.jit(lambda x: x + 1)(1.0))  # starts the backend
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        step()
        print(json.dumps({"first_call": first, "memory": _growth(step)}))


def _step(contender: str, qubits: int) -> Step:
    case = _quantum.problem(qubits)
    if contender == _quantum.PURE:
        return _quantum.pure_step(case)
    return _quantum.torch_step(case, _quantum.losses(case)[contender])


def _growth(step: Step) -> float:
    """Megabytes by which the process grows at most during a step.

    Where the kernel cannot forget an earlier peak, that of the whole process, compiler included.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide what the step allocates
        _RESET.write_text("5")
        before = _kilobytes("VmRSS")
        step()
        return (_kilobytes("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _kilobytes(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
