"""The ground state of a molecule by Newton's method, with gradients of an adjoint simulator.

`lightning.qubit` computes the gradient of an energy by the adjoint method, in one run for all
angles, but no second derivative. The rule `Jacobian(adjoint, then=ParameterShift(...))` takes its
gradient as it is, and the Hessian from gradients at shifted angles. Newton's method takes it from
there, in PyTorch and in JAX, to the exact energy of the ion H3+ in a few steps.

The excitations that the circuit consists of turn by the frequencies 1/2 and 1, not by 1 alone as
rotations do. The Hessian is compared with that of another simulator by backpropagation.

    python examples/adjoint.py --output adjoint.png
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pennylane as qml
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bridge import numpy2jax, numpy2torch
from bridge.rules import Jacobian, ParameterShift

QUBITS, ELECTRONS = 6, 2
SINGLES, DOUBLES = qml.qchem.excitations(ELECTRONS, QUBITS)
LOWEST = qml.qchem.hf_state(ELECTRONS, QUBITS)
ANGLES = len(SINGLES) + len(DOUBLES)
FREQUENCIES = (0.5, 1.0)  # of single and of double excitations


def hamiltonian(distance: float) -> Any:
    """The energy operator of three protons, one of which is at `distance` (bohr) from the rest."""
    places = qml.numpy.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.6, distance, 0.0]])
    molecule = qml.qchem.Molecule(["H", "H", "H"], places, charge=1)
    operator: Any = qml.qchem.molecular_hamiltonian(molecule)[0]
    coefficients, operators = operator.terms()
    return qml.Hamiltonian([float(c) for c in coefficients], operators)


def exact_energy(operator: Any) -> float:
    """The lowest energy of two electrons of opposite spins, by diagonalization."""
    matrix: Any = qml.matrix(operator, wire_order=range(QUBITS))
    # Of the bits of a state, every other one is an orbital with spin up.
    up, down = 0b101010, 0b010101
    states = range(2**QUBITS)
    kept = [k for k in states if (k & up).bit_count() == (k & down).bit_count() == 1]
    return float(np.linalg.eigvalsh(matrix[np.ix_(kept, kept)].real)[0])


def circuit_on(device: Any, operator: Any, diff_method: str) -> Any:
    """The energy of the state that excitations by the angles make of the lowest orbitals."""

    @qml.qnode(device, diff_method=diff_method)
    def energy(angles: Any) -> Any:
        qml.BasisState(LOWEST, wires=range(QUBITS))
        for k, wires in enumerate(DOUBLES):
            qml.DoubleExcitation(angles[k], wires=wires)
        for k, wires in enumerate(SINGLES, len(DOUBLES)):
            qml.SingleExcitation(angles[k], wires=wires)
        return qml.expval(operator)

    return energy


def bridged_energy(operator: Any, to_framework: Callable[..., Any]) -> Any:
    """The energy as a function of the framework that `numpy2torch` or `numpy2jax` is for."""
    circuit = circuit_on(qml.device("lightning.qubit", wires=QUBITS), operator, "adjoint")

    def adjoint(angles: np.ndarray) -> np.ndarray:
        return np.asarray(qml.grad(circuit)(qml.numpy.array(angles, requires_grad=True)))

    rule = Jacobian(adjoint, then=ParameterShift(frequencies=FREQUENCIES))
    return to_framework(circuit, gradient=rule, out=np.empty(()))


def torch_newton(energy: Any, angles: Tensor, steps: int) -> tuple[Tensor, list[float]]:
    """The angles after some steps of Newton's method, and the energies on the way."""
    energies = [energy(angles).item()]
    for _ in range(steps):
        gradient, hessian = torch.func.grad(energy)(angles), torch.func.hessian(energy)(angles)
        curvatures, axes = torch.linalg.eigh(hessian)
        # Downhill where the energy is curved the other way, and not too far where it is flat.
        angles = angles - axes @ (axes.T @ gradient / curvatures.abs().clamp(min=0.02))
        energies.append(energy(angles).item())
    return angles, energies


def jax_newton(energy: Any, steps: int) -> list[float]:
    """The same in JAX, a compiled step in its 64-bit mode."""

    @jax.jit
    def step(angles: jax.Array) -> jax.Array:
        gradient, hessian = jax.grad(energy)(angles), jax.hessian(energy)(angles)
        curvatures, axes = jnp.linalg.eigh(hessian)
        return angles - axes @ (axes.T @ gradient / jnp.maximum(abs(curvatures), 0.02))

    with jax.enable_x64(new_val=True):
        angles = jnp.zeros(ANGLES)
        energies = [float(energy(angles))]
        for _ in range(steps):
            angles = step(angles)
            energies.append(float(energy(angles)))
    return energies


def descent(energy: Any, steps: int) -> list[float]:
    """The energies of gradient descent, which takes one adjoint run a step."""
    angles = torch.zeros(ANGLES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([angles], lr=1.0)
    energies = []
    for _ in range(steps + 1):
        optimizer.zero_grad()
        value = energy(angles)
        value.backward()
        optimizer.step()
        energies.append(value.item())
    return energies


def hessian_error(operator: Any) -> float:
    """The largest difference of the Hessian to that of `default.qubit` by backpropagation."""
    device = qml.device("default.qubit", wires=QUBITS)
    simulated = circuit_on(device, operator, "backprop")
    angles = torch.linspace(-1, 1, ANGLES, dtype=torch.float64)
    exact: Any = torch.autograd.functional.hessian(simulated, angles)
    found = torch.func.hessian(bridged_energy(operator, numpy2torch))(angles)
    return (found - exact).abs().max().item()


@dataclasses.dataclass
class Curve:
    """Energies at distances of the third proton: without excitations, found, and exact."""

    distances: list[float]
    start: list[float] = dataclasses.field(default_factory=list)
    found: list[float] = dataclasses.field(default_factory=list)
    exact: list[float] = dataclasses.field(default_factory=list)


def follow(distances: list[float], steps: int) -> Curve:
    """The curve, each point of which starts from the angles of the one before."""
    curve, angles = Curve(distances), torch.zeros(ANGLES, dtype=torch.float64)
    for distance in distances:
        operator = hamiltonian(distance)
        energy = bridged_energy(operator, numpy2torch)
        curve.start.append(energy(torch.zeros_like(angles)).item())
        angles, energies = torch_newton(energy, angles, steps)
        curve.found.append(energies[-1])
        curve.exact.append(exact_energy(operator))
    return curve


def draw_errors(axes: Axes, runs: dict[str, list[float]], exact: float) -> None:
    """The panel of the errors after each step; the rounding of the energies is its floor."""
    for (name, energies), marker in zip(runs.items(), ("o", "x", "."), strict=True):
        axes.plot(np.maximum(np.array(energies) - exact, 1e-16), marker=marker, label=name)
    axes.set(title="Error of the energy of H3+", xlabel="step", ylabel="hartree", yscale="log")
    axes.legend(frameon=False)


def draw_curve(axes: Axes, curve: Curve) -> None:
    """The panel of the energy by the distance of the third proton."""
    axes.plot(curve.distances, curve.start, "--", color="gray", label="without excitations")
    axes.plot(curve.distances, curve.exact, label="exact")
    axes.plot(curve.distances, curve.found, "o", label="Newton's method in PyTorch")
    axes.set(title="H3+", xlabel="distance of the third proton (bohr)", ylabel="energy (hartree)")
    axes.legend(frameon=False)


def compare(operator: Any, exact: float) -> dict[str, list[float]]:
    """The energies of three ways to the ground state, and a line on each."""
    start = torch.zeros(ANGLES, dtype=torch.float64)
    ways: dict[str, tuple[Callable[..., Any], Callable[[Any], list[float]]]] = {
        "Newton in PyTorch": (numpy2torch, lambda energy: torch_newton(energy, start, 4)[1]),
        "Newton in JAX": (numpy2jax, lambda energy: jax_newton(energy, 4)),
        "gradient descent": (numpy2torch, lambda energy: descent(energy, 20)),
    }
    runs = {}
    for name, (to_framework, way) in ways.items():
        energy, begin = bridged_energy(operator, to_framework), time.perf_counter()
        runs[name] = way(energy)
        cost = f"{energy.evaluations} evaluations, {time.perf_counter() - begin:.1f} s"
        errors = ", ".join(f"{value - exact:.1e}" for value in runs[name][:5])
        print(f"{name}: errors at steps 0 to 4: {errors}; {cost}")
    return runs


def main() -> None:
    """Find the ground state in three ways, follow it over distances, and save the figure."""
    parser = argparse.ArgumentParser(description="Newton's method by an adjoint simulator.")
    parser.add_argument("--output", type=Path, default=Path("adjoint.png"), help="figure to write")
    parser.add_argument("--quick", action="store_true", help="few distances only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    operator = hamiltonian(2.4)
    exact = exact_energy(operator)
    print(f"exact energy of H3+ with the third proton at 2.4 bohr: {exact:.10f} hartree")
    runs = compare(operator, exact)
    print(f"largest error of the Hessian against backpropagation: {hessian_error(operator):.1e}")
    curve = follow(list(np.linspace(1.2, 6, 3 if options.quick else 10)), 4 if options.quick else 3)
    error = np.abs(np.subtract(curve.found, curve.exact)).max()
    print(f"largest error at {len(curve.distances)} distances: {error:.1e} hartree")
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    draw_errors(panels[0], runs, exact)
    draw_curve(panels[1], curve)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
