"""A circuit of Qiskit as a layer of a classifier, in PyTorch and in JAX.

`StatevectorEstimator` evaluates a circuit for a whole array of angles in one job, and so does each
gradient here: the points of a batch and of all its parameter shifts are one job each way. Two
digits of scikit-learn, which look alike, are told apart by their first four principal components.
The same model is trained by PyTorch in double precision and by optax in single precision, from the
same start on the same batches, and the two agree. The gradient is compared with that of PennyLane,
which simulates the same circuit and differentiates it by backpropagation.

    python examples/estimator.py --output estimator.png
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pennylane as qml
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from bridge import numpy2jax, numpy2torch, to_jax
from bridge.nn import FunctionLayer
from bridge.rules import ParameterShift

QUBITS, LAYERS, BATCH, RATE = 4, 2, 16, 0.1
DIGITS = (3, 8)


def circuit() -> tuple[QuantumCircuit, ParameterVector, ParameterVector]:
    """The circuit, its inputs x and its weights w, each of which turns one qubit once."""
    x, w = ParameterVector("x", QUBITS), ParameterVector("w", LAYERS * QUBITS)
    result = QuantumCircuit(QUBITS)
    for qubit in range(QUBITS):
        result.ry(x[qubit], qubit)
    for layer in range(LAYERS):
        for qubit in range(QUBITS):
            result.cx(qubit, (qubit + 1) % QUBITS)
        for qubit in range(QUBITS):
            result.ry(w[layer * QUBITS + qubit], qubit)
    return result, x, w


CIRCUIT, X, W = circuit()
ESTIMATOR = StatevectorEstimator()  # its values are exact, unless it is given a precision
Z = SparsePauliOp.from_sparse_list([("Z", [0], 1.0)], QUBITS)


def expectation(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The expectation value of Pauli Z on qubit 0, for (N, QUBITS) and (N, LAYERS, QUBITS)."""
    values = {tuple(X): x, tuple(W): w.reshape(len(w), -1)}
    found: Any = ESTIMATOR.run([(CIRCUIT, Z, values)]).result()[0].data
    return found.evs


in_torch = numpy2torch(expectation, gradient=ParameterShift(), vectorized=True)
# Qiskit computes in double precision, JAX here in single.
in_jax = numpy2jax(
    expectation, gradient=ParameterShift(), vectorized=True, dtype="float64", out=np.float32(0)
)


@qml.qnode(qml.device("default.qubit", wires=QUBITS), diff_method="backprop")
def by_pennylane(x: Any, w: Any) -> Any:
    """The same in PennyLane, for x of shape (N, QUBITS) and one w, which torch differentiates."""
    for qubit in range(QUBITS):
        qml.RY(x[:, qubit], wires=qubit)
    for layer in range(LAYERS):
        for qubit in range(QUBITS):
            qml.CNOT(wires=[qubit, (qubit + 1) % QUBITS])
        for qubit in range(QUBITS):
            qml.RY(w[layer, qubit], wires=qubit)
    return qml.expval(qml.Z(0))


class Classifier(nn.Module):
    """A logit for the second digit, from components (batch, 4), by way of a circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Linear(QUBITS, QUBITS)
        self.circuit = FunctionLayer(in_torch, {"w": (LAYERS, QUBITS)})
        self.logit = nn.Linear(1, 1)

    def forward(self, components: Tensor) -> Tensor:
        values = self.circuit(self.angles(components))
        return self.logit(values[:, None])[:, 0]


def jax_classifier(params: dict[str, jax.Array], components: jax.Array) -> jax.Array:
    """The same in JAX, of parameters with the same names."""
    angles = components @ params["angles.weight"].T + params["angles.bias"]
    values = jax.vmap(in_jax, in_axes=(0, None))(angles, params["circuit.w"])
    return values * params["logit.weight"][0, 0] + params["logit.bias"][0]


@dataclasses.dataclass
class Data:
    """Components and labels, to train with and to test with."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The images of this step, in an order that is the same for everybody."""
        epoch, k = divmod(step, len(self.train) // BATCH)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(epoch))
        rows = order[k * BATCH : (k + 1) * BATCH]
        return self.train[rows], self.train_labels[rows]


def data(count: int) -> Data:
    """The images of two digits, by components that the first `count` determine."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, DIGITS)
    pixels, second = images[chosen] / 16, (labels[chosen] == DIGITS[1]).astype(float)
    pixels = np.random.default_rng(0).permutation(np.c_[pixels, second])
    components = PCA(QUBITS, whiten=True, random_state=0).fit(pixels[:count, :-1])
    x = torch.from_numpy(components.transform(pixels[:, :-1]))
    y = torch.from_numpy(pixels[:, -1].copy())
    return Data(x[:count], y[:count], x[count:], y[count:])


@dataclasses.dataclass
class Run:
    """The losses of a training, its accuracy on new images, its cost and its seconds."""

    losses: list[float]
    accuracy: float
    calls: int
    evaluations: int
    seconds: float


def accuracy(logits: Any, labels: Any) -> float:
    """The share of labels that the signs of the logits tell."""
    return float(((logits > 0) == (labels > 0)).sum()) / len(labels)


def train_in_torch(model: Classifier, images: Data, steps: int) -> Run:
    """The run of Adam of torch."""
    start, losses = time.perf_counter(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    calls, evaluations = in_torch.calls, in_torch.evaluations
    for step in range(steps):
        components, labels = images.batch(step)
        optimizer.zero_grad()
        loss = binary_cross_entropy_with_logits(model(components), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    calls, evaluations = in_torch.calls - calls, in_torch.evaluations - evaluations
    seconds = time.perf_counter() - start
    with torch.no_grad():
        share = accuracy(model(images.test), images.test_labels)
    return Run(losses, share, calls, evaluations, seconds)


def train_in_jax(params: dict[str, jax.Array], images: Data, steps: int) -> Run:
    """The run of Adam of optax, a compiled step."""
    start, losses = time.perf_counter(), []
    rule = optax.adam(RATE)

    def loss(params: Any, components: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax_classifier(params, components)
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    @jax.jit
    def update(params: Any, state: Any, components: jax.Array, labels: jax.Array) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, components, labels)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = rule.init(params)
    for step in range(steps):
        components, labels = to_jax([part.float() for part in images.batch(step)])
        params, state, value = update(params, state, components, labels)
        losses.append(float(value))
    calls, evaluations = in_jax.calls, in_jax.evaluations
    seconds = time.perf_counter() - start
    logits = jax_classifier(params, to_jax(images.test.float()))
    share = accuracy(np.asarray(logits), images.test_labels.numpy())
    return Run(losses, share, calls, evaluations, seconds)


def gradients(model: Classifier, images: Data) -> tuple[Tensor, Tensor]:
    """The derivatives of a loss by all angles of a batch and all weights, by us and PennyLane."""
    components, _ = images.batch(0)
    x = model.angles(components).detach().requires_grad_()
    w = model.circuit.get_parameter("w")

    def slopes(values: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(values.square().sum(), (x, w))])

    return slopes(model.circuit(x)), slopes(by_pennylane(x, w))


def draw_losses(axes: Axes, runs: dict[str, Run]) -> None:
    """The panel of the losses, which coincide."""
    for (name, run), line in zip(runs.items(), ("-", "--"), strict=True):
        axes.plot(run.losses, line, label=name)
    axes.set(title="Training loss", xlabel="step", ylabel="cross-entropy")
    axes.legend(frameon=False)


def draw_values(axes: Axes, model: Classifier, images: Data) -> None:
    """The panel of the circuit's values for images that it was not trained with."""
    with torch.no_grad():
        values = model.circuit(model.angles(images.test))
    for label, digit in enumerate(DIGITS):
        shown = values[images.test_labels == label]
        axes.hist(shown, bins=20, range=(-1, 1), alpha=0.6, label=f"{digit}")
    axes.set(title="New images", xlabel="expectation value of Z", ylabel="images")
    axes.legend(frameon=False)


def draw_gradients(axes: Axes, ours: Tensor, exact: Tensor) -> None:
    """The panel of the two gradients, one point for each angle."""
    axes.axline((0, 0), slope=1, color="gray", linewidth=1, label="equal")
    axes.scatter(exact, ours, s=12, label="angles and weights")
    axes.set(title="Gradient", xlabel="PennyLane, backpropagation", ylabel="Qiskit, shifts")
    axes.legend(frameon=False)


def report(runs: dict[str, Run], images: Data) -> None:
    """Print what the runs came to, and what a linear classifier does with the same components."""
    for name, run in runs.items():
        jobs = f"{run.calls} jobs of {run.evaluations} points, {run.seconds:.1f} s"
        print(f"{name}: {len(run.losses)} steps, accuracy on new images {run.accuracy:.1%}; {jobs}")
    linear = LogisticRegression().fit(images.train, images.train_labels)
    print(f"logistic regression: {linear.score(images.test, images.test_labels):.1%}")
    first, second = (np.array(run.losses) for run in runs.values())
    print(f"largest difference of the losses: {np.abs(first - second).max():.1e}")


def main() -> None:
    """Train in both frameworks, compare, save the figure."""
    parser = argparse.ArgumentParser(description="A circuit of Qiskit as a layer.")
    parser.add_argument(
        "--output", type=Path, default=Path("estimator.png"), help="figure to write"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps, images = 16 if options.quick else 64, data(256)
    model = Classifier().double()
    params = to_jax({name: p.detach().float() for name, p in model.named_parameters()}, copy=True)
    ours, exact = gradients(model, images)
    runs = {
        "PyTorch": train_in_torch(model, images, steps),
        "JAX": train_in_jax(params, images, steps),
    }
    report(runs, images)
    print(f"largest error of the gradient against PennyLane: {(ours - exact).abs().max():.1e}")
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    draw_losses(panels[0], runs)
    draw_values(panels[1], model, images)
    draw_gradients(panels[2], ours.detach(), exact.detach())
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
