"""`python -m benchmarks`: measure every case, print the tables, write results and figures.

Without `--output`, only a complete run replaces what stands beside this module.
"""

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks import (
    _black_box,
    _choices,
    _compiled,
    _eager,
    _figure,
    _fresh,
    _growth,
    _large,
    _mlx,
    _modules,
    _quantum,
    _report,
    _reverse,
    _scaling,
    _sharded,
    _simulators,
    _tree,
    _views,
    _wrapping,
)
from benchmarks._machine import Effort, describe, settle
from benchmarks._results import Measurement

CASES: dict[str, Callable[[Effort], Iterable[Measurement]]] = {
    "small": _eager.forward_backward,
    "forward": _eager.forward,
    "tree": _tree.forward_backward,
    "large": _large.crossing,
    "quantum": _quantum.training,
    "memory": _fresh.memory,
    "compile": _fresh.compiling,
    "cache": _fresh.cache,
    "wrapping": _wrapping.wrapping,
    "in jax": _reverse.small,
    "in jax, large": _reverse.large,
    "in jax, perceptron": _reverse.perceptron,
    "in jax, module": _reverse.module,
    "compiled": _compiled.training,
    "mlx": _mlx.small,
    "mlx, large": _mlx.large,
    "mlx, perceptron": _mlx.perceptron,
    "loss": _choices.loss,
    "choices": _choices.choices,
    "black box": _black_box.overhead,
    "hessian": _black_box.hessians,
    "layers": _simulators.layers,
    "modules": _modules.in_torch,
    "flax": _modules.flax,
    "views": _views.training_steps,
    "sharded": _sharded.crossing,
    "growth": _growth.growth,
    "elements": _scaling.elements,
    "depth": _scaling.depth,
    "batch": _scaling.batch,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, 4 qubits only")
    parser.add_argument("--only", choices=CASES, action="append", help="one case; repeatable")
    parser.add_argument("--no-peers", action="store_true", help="leave other libraries out")
    parser.add_argument("--output", type=Path, help="folder for results and figures")
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for."""
    options = _options()
    settle()
    torch.manual_seed(0)
    effort = Effort(quick=options.quick, peers=not options.no_peers)
    found: list[Measurement] = []
    for name in options.only or CASES:
        start = time.perf_counter()
        for measurement in CASES[name](effort):
            found.append(measurement)
            print(_report.details(measurement), flush=True)
        print(f"({name}: {time.perf_counter() - start:.0f} s)\n", flush=True)
    print(_report.bars(found))
    complete = not (options.quick or options.only or options.no_peers)
    folder = options.output or (Path(__file__).parent if complete else None)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(_report.document(found, describe()))
        (folder / "results.json").write_text(_report.data(found, describe()))
        _figure.draw(folder)


if __name__ == "__main__":
    main()
