"""A network of PyTorch that shapes a control pulse, through a simulation by dynamiqs in JAX.

A superconducting qubit has a third level close by, into which a fast pulse leaks. dynamiqs solves
Schroedinger's equation for the pulse, `jax2torch` makes that a function of torch tensors, and a
small network of torch learns the shape of a pulse that flips the qubit in 12 ns. It is compared
with DRAG, a formula for such pulses (Motzoi et al. 2009, https://arxiv.org/abs/0901.0534).

The gradient is compared with that of the same simulation in torch, by matrix exponentials, and for
a qubit without a third level with the formula of Rabi. `torch.vmap` maps the simulation over qubits
whose frequency is a little off.

    python examples/pulses.py --output pulses.png
"""

import argparse
import functools
import math
import time
from pathlib import Path

import dynamiqs as dq
import jax
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from bridge import jax2torch

DURATION, STEPS = 12.0, 60  # in ns, of equal length
EDGES = np.linspace(0, DURATION, STEPS + 1)
ANHARMONICITY = -2 * math.pi * 0.2  # in rad / ns
COLORS = ("gray", "tab:orange", "tab:blue")  # of the envelope, DRAG and the network
FLIP = torch.tensor([[0, -1j], [-1j, 0]], dtype=torch.complex128)


def propagate(drive: jax.Array, detuning: jax.Array, levels: int = 3) -> jax.Array:
    """What a pulse does to the qubit, (2, 2): the part of the propagator in its two levels.

    `drive` has the two quadratures of the pulse, (2, STEPS), and `detuning` is how far the
    frequency of the qubit is off, all of them in rad / ns.
    """
    # Made here, where JAX computes in double precision for tensors of double precision.
    lower = dq.destroy(levels)
    number = lower.dag() @ lower
    energies = detuning * number + ANHARMONICITY / 2 * (number @ number - number)
    first = dq.pwc(EDGES, drive[0], (lower + lower.dag()) / 2)
    second = dq.pwc(EDGES, drive[1], 0.5j * (lower.dag() - lower))
    found = dq.sepropagator(energies + first + second, EDGES[[0, -1]], progress_meter=False)
    return found.final_propagator.to_jax()[:2, :2]


simulation = jax2torch(propagate)
two_levels = jax2torch(functools.partial(propagate, levels=2))


def infidelity(propagator: Tensor) -> Tensor:
    """One minus the fidelity of the flip, averaged over all states of the qubit."""
    product = FLIP.mH @ propagator
    kept = (product.abs() ** 2).sum((-2, -1))
    overlap = product.diagonal(dim1=-2, dim2=-1).sum(-1).abs() ** 2
    return 1 - (overlap + kept) / 6


def in_torch(drive: Tensor, detuning: Tensor) -> Tensor:
    """The same as `propagate`, by a matrix exponential of torch for each step."""
    lower = torch.diag(torch.tensor([1.0, math.sqrt(2)], dtype=torch.complex128), 1)
    number = lower.mH @ lower
    energies = detuning * number + ANHARMONICITY / 2 * (number @ number - number)
    first, second = (lower + lower.mH) / 2, 0.5j * (lower.mH - lower)
    result = torch.eye(3, dtype=torch.complex128)
    for x, y in drive.T:
        step = energies + x * first + y * second
        result = torch.linalg.matrix_exp(-1j * DURATION / STEPS * step) @ result
    return result[:2, :2]


MIDDLES = torch.from_numpy((EDGES[1:] + EDGES[:-1]) / DURATION - 1)  # from -1 to 1
ENVELOPE = torch.cos(math.pi / 2 * MIDDLES) ** 2
AREA = 2 * math.pi / DURATION  # the height of the envelope for a flip of two levels


def plain_pulse() -> Tensor:
    """The envelope alone."""
    return torch.stack([AREA * ENVELOPE, torch.zeros(STEPS).double()])


def drag_pulse() -> Tensor:
    """The envelope, and its derivative in the other quadrature, to cancel the leakage."""
    slope = -AREA * math.pi / DURATION * torch.sin(math.pi * MIDDLES)
    return torch.stack([AREA * ENVELOPE, slope / (-2 * ANHARMONICITY)])


class Shaper(nn.Module):
    """Both quadratures of a pulse, (2, STEPS), which starts and ends at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self) -> Tensor:
        return plain_pulse() + ENVELOPE * self.correction(MIDDLES[:, None]).T


def train(shaper: Shaper, steps: int) -> list[float]:
    """The infidelities on the way."""
    optimizer = torch.optim.Adam(shaper.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = infidelity(simulation(shaper(), torch.zeros(()).double()))
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def gradient_error() -> float:
    """The largest difference of the gradient to that of `in_torch`, by its largest element."""
    slopes = []
    for run in (simulation, in_torch):
        drive = drag_pulse().requires_grad_()
        loss = infidelity(run(drive, torch.full((), 0.02).double()))
        slopes.append(torch.autograd.grad(loss, drive)[0])
    return ((slopes[0] - slopes[1]).abs().max() / slopes[1].abs().max()).item()


def rabi_error() -> float:
    """The error of two levels on resonance: a pulse of area a flips with `sin(a / 2) ** 2`."""
    area = torch.linspace(0.3, 3, 7, dtype=torch.float64, requires_grad=True)

    def flipped(a: Tensor) -> Tensor:
        drive = (a / math.pi * plain_pulse()).contiguous()
        return two_levels(drive, torch.zeros(()).double())[1, 0].abs() ** 2

    found, exact = torch.vmap(flipped)(area), torch.sin(area / 2) ** 2
    (slope,) = torch.autograd.grad(found.sum(), area)
    errors = torch.stack([found - exact, slope - torch.sin(area) / 2])
    return errors.abs().max().item()


def detuned(drive: Tensor, detunings: Tensor) -> Tensor:
    """The infidelities of a pulse for qubits whose frequency is off, in one call."""
    with torch.no_grad():
        return infidelity(torch.vmap(simulation, in_dims=(None, 0))(drive, detunings))


def draw_losses(axes: Axes, losses: list[float], references: dict[str, float]) -> None:
    """The panel of the infidelity while the network learns, beside those of the formulas."""
    axes.plot(losses, label="network")
    for (name, value), color in zip(references.items(), COLORS[:2], strict=True):
        axes.axhline(value, color=color, linewidth=1, linestyle="--", label=name)
    axes.set(title="Training", xlabel="step", ylabel="infidelity", yscale="log")
    axes.legend(frameon=False)


def draw_pulses(axes: Axes, pulses: dict[str, Tensor]) -> None:
    """The panel of the shapes: the first quadrature in full lines, the second in dashed ones."""
    for (name, (first, second)), color in zip(pulses.items(), COLORS, strict=True):
        axes.stairs(first, EDGES, baseline=None, color=color, label=name)
        axes.stairs(second, EDGES, baseline=None, color=color, linestyle="--")
    axes.set(title="Pulses, both quadratures", xlabel="time (ns)", ylabel="drive (rad / ns)")
    axes.legend(frameon=False)


def draw_detunings(axes: Axes, pulses: dict[str, Tensor]) -> None:
    """The panel of what becomes of the flip where the frequency is off."""
    off = torch.linspace(-5, 5, 41, dtype=torch.float64)  # in MHz
    for (name, pulse), color in zip(pulses.items(), COLORS, strict=True):
        axes.plot(off, detuned(pulse, 2e-3 * math.pi * off), color=color, label=name)
    axes.set(title="Qubits off resonance", xlabel="detuning (MHz)", yscale="log")
    axes.legend(frameon=False)


def main() -> None:
    """Train the network, compare it with formulas, save the figure."""
    parser = argparse.ArgumentParser(description="A network of PyTorch that shapes a pulse.")
    parser.add_argument("--output", type=Path, default=Path("pulses.png"), help="figure to write")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"relative error of the gradient against matrix exponentials: {gradient_error():.1e}")
    print(f"largest error of two levels against Rabi's formula: {rabi_error():.1e}")
    shaper, start = Shaper().double(), time.perf_counter()
    losses = train(shaper, 600 if options.quick else 2000)
    print(f"{len(losses)} steps, {time.perf_counter() - start:.1f} s")
    pulses = {"envelope": plain_pulse(), "DRAG": drag_pulse(), "network": shaper().detach()}
    none = torch.zeros(1).double()
    values = {name: detuned(pulse, none).item() for name, pulse in pulses.items()}
    for name, value in values.items():
        print(f"infidelity of the flip, {name}: {value:.1e}")
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    draw_losses(panels[0], losses, {name: values[name] for name in ("envelope", "DRAG")})
    draw_pulses(panels[1], pulses)
    draw_detunings(panels[2], pulses)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
