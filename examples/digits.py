"""A quantum layer written in JAX, trained inside a PyTorch model on handwritten digits.

PennyLane simulates the circuit in JAX, and `jax2torch` makes it a function of torch tensors. All
the rest is PyTorch as usual: modules, parameters, loss, optimizer. The same model with the identity
in place of the circuit is trained for comparison, and the gradient that reaches the weights of the
circuit is compared with finite differences.

    python examples/digits.py --output digits.png
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pennylane as qml
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from tqdm import trange

from bridge import jax2torch

QUBITS = 6
LAYERS = 3
BATCH = 64


def simulator(qubits: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """A JAX function of angles [batch, qubits] and circuit weights [layers, qubits, 3].

    It returns the expectation value of Pauli Z on each qubit, [batch, qubits] between -1 and 1.
    """

    @qml.qnode(qml.device("default.qubit", wires=qubits), interface="jax", diff_method="backprop")
    def circuit(angles: jax.Array, weights: jax.Array) -> Any:  # its expectation values
        qml.AngleEmbedding(angles, wires=range(qubits), rotation="Y")
        qml.StronglyEntanglingLayers(weights, wires=range(qubits))
        return [qml.expval(qml.PauliZ(qubit)) for qubit in range(qubits)]

    def expectations(angles: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.stack(circuit(angles, weights))

    return jax.vmap(expectations, in_axes=(0, None))


class QuantumLayer(nn.Module):
    """The circuit as a torch module, from angles [batch, qubits] to values [batch, qubits]."""

    def __init__(self, qubits: int, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(2 * math.pi * torch.rand(layers, qubits, 3))
        self.circuit = jax2torch(simulator(qubits))

    def forward(self, angles: Tensor) -> Tensor:
        return self.circuit(angles, self.weights)


class Classifier(nn.Module):
    """A model from images [batch, 64] to logits [batch, 10], with the circuit between torch layers.

    Without `quantum`, the identity takes the place of the circuit.
    """

    def __init__(self, *, quantum: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, QUBITS), nn.Tanh()
        )
        self.head = nn.Linear(QUBITS, 10)
        # Made last, so that the layers around it start from the same values with and without it.
        self.middle = QuantumLayer(QUBITS, LAYERS) if quantum else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        angles = math.pi / 2 * self.features(images)
        return self.head(self.middle(angles))


def classifier(*, quantum: bool) -> Classifier:
    """A new classifier in float64, the same each time."""
    torch.manual_seed(0)
    # float64 is PennyLane's own precision, and what finite differences need. `jax2torch` runs JAX
    # in the dtype it is given, so no global flag of JAX has to be set.
    return Classifier(quantum=quantum).double()


def digits() -> tuple[TensorDataset, TensorDataset]:
    """The 1,797 images of scikit-learn, pixels from 0 to 1: four fifths to train, one to test."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, labels, test_size=0.2, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, parts)
    return TensorDataset(train_images, train_labels), TensorDataset(test_images, test_labels)


@dataclasses.dataclass
class Run:
    """A trained model, its curves with one entry an epoch, and the seconds the training took."""

    model: Classifier
    loss: list[float] = dataclasses.field(default_factory=list)
    train: list[float] = dataclasses.field(default_factory=list)
    test: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def accuracy(model: Classifier, data: TensorDataset) -> float:
    """The share of `data` that `model` classifies correctly."""
    images, labels = data.tensors
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


def train_epoch(model: Classifier, batches: DataLoader, optimizer: torch.optim.Optimizer) -> float:
    """The mean loss over `batches`, each of which moved the parameters of `model` a step."""
    total = 0.0
    for images, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


def fit(
    name: str, model: Classifier, train: TensorDataset, test: TensorDataset, epochs: int
) -> Run:
    """The run of `model` on `train`, under a progress bar called `name`."""
    start = time.perf_counter()
    run = Run(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    # A last, smaller batch would be a new shape, which JAX would compile once more.
    batches = DataLoader(
        train, BATCH, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(0)
    )
    progress = trange(epochs, desc=f"{name:>15}")
    for _ in progress:
        run.loss.append(train_epoch(model, batches, optimizer))
        run.train.append(accuracy(model, train))
        run.test.append(accuracy(model, test))
        progress.set_postfix(loss=f"{run.loss[-1]:.3f}", test=f"{run.test[-1]:.1%}")
    run.seconds = time.perf_counter() - start
    return run


def gradients(model: Classifier, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of the loss in the circuit's weights, by autograd and by central differences.

    The weights are drawn anew, because after training the derivative is close to zero.
    """
    name = "middle.weights"

    def loss(weights: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, {name: weights}, images), labels)

    weights = (2 * math.pi * torch.rand_like(model.get_parameter(name))).requires_grad_()
    (by_autograd,) = torch.autograd.grad(loss(weights), weights)
    step = 1e-5
    with torch.no_grad():
        moves = step * torch.eye(weights.numel(), dtype=weights.dtype)
        rises = [loss(weights + d) - loss(weights - d) for d in moves.view(-1, *weights.shape)]
    return by_autograd.flatten(), torch.stack(rises) / (2 * step)


def draw_loss(axes: Axes, runs: dict[str, Run]) -> None:
    """The panel of the training loss of each run."""
    for name, run in runs.items():
        axes.plot(range(1, len(run.loss) + 1), run.loss, label=name)
    axes.set(title="Training loss", xlabel="epoch", ylabel="cross-entropy", yscale="log")
    axes.legend(frameon=False)


def draw_accuracy(axes: Axes, runs: dict[str, Run]) -> None:
    """The panel of the accuracy of each run: test in full lines, training in dotted ones."""
    for name, run in runs.items():
        epochs = range(1, len(run.test) + 1)
        (line,) = axes.plot(epochs, run.test, label=f"{name}, test")
        axes.plot(epochs, run.train, ":", color=line.get_color(), label=f"{name}, training")
    axes.set(title="Accuracy", xlabel="epoch")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False)


def draw_gradients(axes: Axes, by_autograd: Tensor, by_differences: Tensor) -> None:
    """The panel of the two gradients, one point for each weight of the circuit."""
    error = (by_autograd - by_differences).abs().max()
    axes.axline((0, 0), slope=1, color="gray", linewidth=1, label="equal")
    axes.scatter(by_differences, by_autograd, s=18, label="circuit weights")
    axes.set(
        title=f"Gradient (largest difference {error:.0e})",
        xlabel="central finite differences",
        ylabel="autograd through the bridge",
    )
    axes.legend(frameon=False)


def figure(runs: dict[str, Run], by_autograd: Tensor, by_differences: Tensor) -> Figure:
    """The three panels: loss, accuracy, gradient against finite differences."""
    result = Figure(figsize=(13, 4), layout="constrained")
    loss, shares, slopes = result.subplots(1, 3)
    draw_loss(loss, runs)
    draw_accuracy(shares, runs)
    draw_gradients(slopes, by_autograd, by_differences)
    return result


def table(runs: dict[str, Run]) -> str:
    """The result of each run in a line: parameters, accuracies, seconds."""
    lines = [f"{'':15} {'parameters':>10} {'train':>7} {'test':>7} {'seconds':>8}"]
    for name, run in runs.items():
        size = sum(parameter.numel() for parameter in run.model.parameters())
        shares = f"{run.train[-1]:7.1%} {run.test[-1]:7.1%}"
        lines.append(f"{name:15} {size:10} {shares} {run.seconds:8.1f}")
    return "\n".join(lines)


def main() -> None:
    """Train both models, compare the gradients, save the figure and print the table."""
    parser = argparse.ArgumentParser(description="A quantum layer in JAX, trained by PyTorch.")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="figure to write")
    parser.add_argument("--quick", action="store_true", help="a few epochs only")
    options = parser.parse_args()
    # Layers this small gain nothing from more threads of torch, which take the cores from JAX while
    # they wait: on two busy cores, 110 ms a step against 17.
    torch.set_num_threads(1)
    epochs = 10 if options.quick else 40
    train, test = digits()
    models = {
        "with circuit": classifier(quantum=True),
        "without circuit": classifier(quantum=False),
    }
    runs = {name: fit(name, model, train, test, epochs) for name, model in models.items()}
    by_autograd, by_differences = gradients(runs["with circuit"].model, *train[:BATCH])
    figure(runs, by_autograd, by_differences).savefig(options.output, dpi=150)
    error = (by_autograd - by_differences).abs().max()
    print(table(runs))
    print(f"largest difference of autograd and finite differences: {error:.1e}")
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
