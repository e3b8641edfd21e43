"""A circuit of PennyLane in torch: exact by JAX, and on a device without autodiff."""

import pytest

from bridge import jax2torch, numpy2torch
from bridge.rules import ParameterShift

for package in ("torch", "jax"):
    pytest.importorskip(package)
qml = pytest.importorskip("pennylane")

import torch  # noqa: E402

from tests.quantum.agreement import assert_agrees  # noqa: E402

# What PennyLane calls that is deprecated is not for us to mend.
pytestmark = [
    pytest.mark.quantum,
    pytest.mark.filterwarnings(r"ignore:::pennylane(\.|$)"),
]
POINTS = torch.tensor([[0.3, -1.1], [2.3, 0.7]], dtype=torch.float64)
WEIGHT = torch.tensor(0.8, dtype=torch.float64)


def by_hand(x, w):
    a, b = x
    return torch.cos(a) * torch.cos(b) * torch.cos(w) - torch.sin(b) * torch.sin(w)


def circuit(x, w):
    qml.RX(x[0], 0)
    qml.RY(x[1], 1)
    qml.CNOT([0, 1])
    qml.RY(w, 1)
    return qml.expval(qml.Z(1))


def test_by_jax():
    node = qml.QNode(circuit, qml.device("default.qubit"))
    assert_agrees(jax2torch(node), by_hand, POINTS, WEIGHT)


def test_on_a_device():
    node = qml.QNode(circuit, qml.device("lightning.qubit", wires=2))
    on_device = numpy2torch(lambda x, w: node(x.T, w), gradient=ParameterShift(), vectorized=True)
    assert_agrees(on_device, by_hand, POINTS, WEIGHT)
