"""A circuit that is measured with a few shots, trained in PyTorch by two gradient rules.

The circuit repeats a rotation by its input, so that it is a Fourier series in it, and learns the
series of a teacher: the same circuit with other angles. PennyLane measures it, 200 shots at each
point, and nothing differentiates through the device. `ParameterShift` has gradients without bias
from two points for each angle, `SPSA` cruder ones from two points for all of them. What counts on
hardware is the number of evaluations, so both spend the same number. In the figure, both gradients
are compared with the exact one, by backpropagation through a simulation without shots.

    python examples/shots.py --output shots.png
"""

import argparse
import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import pennylane as qml
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bridge import numpy2torch
from bridge.nn import FunctionLayer
from bridge.rules import SPSA, ParameterShift

LAYERS, SHOTS = 4, 200
INPUTS = torch.linspace(-3, 3, 12, dtype=torch.float64)
RULES = {"ParameterShift": ParameterShift(), "SPSA": SPSA(h=0.2, seed=0)}
RATES = {"ParameterShift": 0.1, "SPSA": 0.03}


def circuit(x: Any, w: Any) -> Any:
    """The circuit, for inputs (N,) and angles (N, LAYERS, 2, 2), and what is measured."""
    for layer in range(LAYERS):
        for qubit in range(2):
            qml.RX(x, wires=qubit)
            qml.RY(w[:, layer, qubit, 0], wires=qubit)
            qml.RZ(w[:, layer, qubit, 1], wires=qubit)
        qml.CNOT(wires=[0, 1])
    return qml.expval(qml.Z(0) @ qml.Z(1))


simulated = qml.QNode(circuit, qml.device("default.qubit", wires=2), diff_method="backprop")


def exact_values(w: Tensor) -> Tensor:
    """The expectation value at each of the inputs, of a simulation that torch differentiates."""
    return simulated(INPUTS, w.expand(len(INPUTS), *w.shape))


def mean_square(values: Tensor, targets: Tensor) -> Tensor:
    """The loss."""
    return (values - targets).square().mean()


def problem() -> tuple[Tensor, Tensor]:
    """The teacher's exact values, and the angles to start from, which are others than its own."""
    torch.manual_seed(0)
    teacher = 2 * math.pi * torch.rand(LAYERS, 2, 2, dtype=torch.float64)
    return exact_values(teacher), teacher + 0.6 * torch.randn_like(teacher)


def measured_layer(name: str, start: Tensor) -> tuple[FunctionLayer, Any]:
    """The layer that is trained, by the rule of this name, and the function in it."""
    device = qml.device("default.qubit", wires=2, seed=0)
    measured = qml.set_shots(qml.QNode(circuit, device, diff_method=None), shots=SHOTS)
    # PennyLane takes many points at once. No rule for `x`: nothing is spent on a gradient by it.
    function = numpy2torch(measured, gradient={"w": RULES[name]}, vectorized=True)
    return FunctionLayer(function, {"w": start}, in_ndim=0), function


@dataclasses.dataclass
class Run:
    """A trained layer, and after each step the evaluations so far and the exact loss."""

    layer: FunctionLayer
    evaluations: list[int] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def train(name: str, targets: Tensor, start: Tensor, budget: int) -> Run:
    """The run of a rule, which ends before it takes more than `budget` evaluations."""
    layer, function = measured_layer(name, start)
    run, begin = Run(layer), time.perf_counter()
    optimizer = torch.optim.Adam(layer.parameters(), lr=RATES[name])
    cost = 0
    while function.evaluations + cost <= budget:
        before = function.evaluations
        # A learning rate that falls to zero averages over the noise of the last steps.
        optimizer.param_groups[0]["lr"] = RATES[name] * (1 - before / budget)
        optimizer.zero_grad()
        mean_square(layer(INPUTS), targets).backward()
        optimizer.step()
        cost = function.evaluations - before
        with torch.no_grad():
            run.losses.append(mean_square(exact_values(layer.get_parameter("w")), targets).item())
        run.evaluations.append(function.evaluations)
    run.seconds = time.perf_counter() - begin
    return run


def exact_gradient(targets: Tensor, angles: Tensor) -> Tensor:
    """The gradient of the loss without shots, one number for each angle."""
    w = angles.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mean_square(exact_values(w), targets), w)
    return gradient.flatten()


def measured_gradients(name: str, targets: Tensor, start: Tensor, count: int) -> Tensor:
    """Gradients of the loss with shots, each of them measured anew: (count, angles)."""
    layer, _ = measured_layer(name, start)
    w = layer.get_parameter("w")
    losses = (mean_square(layer(INPUTS), targets) for _ in range(count))
    return torch.stack([torch.autograd.grad(loss, w)[0].flatten() for loss in losses])


def draw_losses(axes: Axes, runs: dict[str, Run], floor: float) -> None:
    """The panel of the exact loss by the evaluations that it took."""
    for name, run in runs.items():
        axes.plot(run.evaluations, run.losses, label=name)
    axes.axhline(floor, color="gray", linewidth=1, label=f"noise of {SHOTS} shots")
    axes.set(title="Training", xlabel="evaluations", ylabel="exact loss", yscale="log")
    axes.legend(frameon=False)


def draw_series(axes: Axes, runs: dict[str, Run], targets: Tensor) -> None:
    """The panel of the teacher's values, and of those that each run has learned."""
    axes.plot(INPUTS, targets, "o", color="gray", label="teacher")
    for name, run in runs.items():
        axes.plot(INPUTS, exact_values(run.layer.get_parameter("w").detach()), label=name)
    axes.set(title="What was learned", xlabel="input", ylabel="expectation value")
    axes.legend(frameon=False)


def draw_gradients(axes: Axes, exact: Tensor, found: dict[str, Tensor]) -> None:
    """The panel of the measured gradients: mean and spread of one, against the exact gradient."""
    axes.axline((0, 0), slope=1, color="gray", linewidth=1, label="equal")
    for name, gradients in found.items():
        mean, spread = gradients.mean(0), gradients.std(0)
        axes.errorbar(exact, mean, spread, fmt="o", markersize=4, linewidth=1, label=name)
    axes.set(title="Gradient", xlabel="exact", ylabel="mean and spread of measured ones")
    axes.legend(frameon=False)


def deviation(exact: Tensor, gradients: Tensor) -> float:
    """The largest distance of the mean of `gradients` from the exact one, in standard errors."""
    error = gradients.std(0) / math.sqrt(len(gradients))
    return ((gradients.mean(0) - exact) / error).abs().max().item()


def main() -> None:
    """Train by both rules, compare gradients, save the figure and print what came of it."""
    parser = argparse.ArgumentParser(description="A circuit with shots, trained by two rules.")
    parser.add_argument("--output", type=Path, default=Path("shots.png"), help="figure to write")
    parser.add_argument("--quick", action="store_true", help="few evaluations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget, count = (8_000, 40) if options.quick else (40_000, 300)
    targets, start = problem()
    floor = ((1 - targets.square()).mean() / SHOTS).item()
    runs = {name: train(name, targets, start, budget) for name in RULES}
    exact = exact_gradient(targets, start)
    found = {name: measured_gradients(name, targets, start, count) for name in RULES}
    first = mean_square(exact_values(start), targets).item()
    print(
        f"exact loss at the start: {first:.4f}; part of a measured loss that is noise: {floor:.4f}"
    )
    for name, run in runs.items():
        steps = f"{len(run.losses)} steps, {run.evaluations[-1]} evaluations, {run.seconds:.1f} s"
        print(f"{name}: exact loss {run.losses[-1]:.4f} after {steps}")
        errors = deviation(exact, found[name])
        print(f"    mean of {count} gradients: {errors:.1f} standard errors from the exact one")
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    draw_losses(panels[0], runs, floor)
    draw_series(panels[1], runs, targets)
    draw_gradients(panels[2], exact, found)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
