"""Quantum simulators without autodiff in torch, beside the layers that their packages bring."""

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import numpy2torch
from bridge.nn import FunctionLayer
from bridge.rules import ParameterShift

_OURS = "numpy2torch"
_CONNECTOR = "qiskit-machine-learning, TorchConnector"
_QNODE = "PennyLane, parameter-shift in torch"
_QUBITS, _LAYERS, _BATCH, _SHOTS = 4, 2, 8, 1000


def layers(effort: Effort) -> list[Measurement]:
    """Forward and backward of a layer of 4 qubits and 8 weights, for 8 examples."""
    measurements = [_shots(effort)]
    if effort.peers and importlib.util.find_spec("qiskit_machine_learning"):
        measurements.append(_qiskit(effort))
    return measurements


def _step(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Step:
    return lambda: layer(x).sum().backward()


def _qiskit(effort: Effort) -> Measurement:
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector
    from qiskit.primitives import StatevectorEstimator
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_machine_learning.connectors import TorchConnector
    from qiskit_machine_learning.neural_networks import EstimatorQNN

    class Counting(StatevectorEstimator):
        jobs = pubs = 0

        def run(self, pubs: Any, **options: Any) -> Any:
            pubs = [*pubs]
            self.jobs, self.pubs = self.jobs + 1, self.pubs + len(pubs)
            return super().run(pubs, **options)

    inputs = ParameterVector("x", _QUBITS)
    weights = ParameterVector("w", _QUBITS * _LAYERS)
    circuit = QuantumCircuit(_QUBITS)
    for wire in range(_QUBITS):
        circuit.ry(inputs[wire], wire)
    for layer in range(_LAYERS):
        for wire in range(_QUBITS):
            circuit.ry(weights[layer * _QUBITS + wire], wire)
        for wire in range(_QUBITS - 1):
            circuit.cx(wire, wire + 1)
    observable = SparsePauliOp("Z" + "I" * (_QUBITS - 1))
    estimators = {_CONNECTOR: Counting(), _OURS: Counting()}

    @numpy2torch(gradient=ParameterShift(), vectorized=True, dtype="float64")
    def estimate(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        pub = (circuit, observable, {inputs: x, weights: w})
        return estimators[_OURS].run([pub]).result()[0].data.evs

    start = torch.rand(len(weights)) * 6
    network = EstimatorQNN(
        circuit=circuit,
        estimator=estimators[_CONNECTOR],
        observables=observable,
        input_params=inputs,
        weight_params=weights,
        default_precision=0.0,
    )
    theirs = TorchConnector(network, initial_weights=start.numpy())
    ours = FunctionLayer(estimate, {"w": start})
    x = torch.rand(_BATCH, _QUBITS) * 3
    steps = {_CONNECTOR: _step(theirs, x), _OURS: _step(ours, x)}
    for step in steps.values():
        step()
    # The connector computes in single precision.
    torch.testing.assert_close(ours.w.grad, theirs.weight.grad, rtol=0, atol=1e-5)
    counts = [f"{name}: {e.jobs} jobs, {e.pubs} PUBs" for name, e in estimators.items()]
    return Measurement(
        title=f"Qiskit layer, {_QUBITS} qubits, {_LAYERS} layers, batch {_BATCH}",
        unit="ms",
        values=timed(steps, seconds=effort.seconds(10), scale=1e3),
        reference=_CONNECTOR,
        bars=[Bar("no slower than TorchConnector", _OURS, _CONNECTOR, 1.0)],
        notes=[f"Forward and backward: {'; '.join(counts)}."],
    )


def _shots(effort: Effort) -> Measurement:
    import pennylane as qml

    device = qml.device("default.qubit", wires=_QUBITS, seed=0)

    def circuit(x: Any, w: Any) -> Any:
        for wire in range(_QUBITS):
            qml.RY(x[..., wire], wires=wire)
        for layer in range(_LAYERS):
            for wire in range(_QUBITS):
                qml.RY(w[..., layer * _QUBITS + wire], wires=wire)
            for wire in range(_QUBITS - 1):
                qml.CNOT([wire, wire + 1])
        return qml.expval(qml.PauliZ(_QUBITS - 1))

    shots = qml.set_shots(shots=_SHOTS)
    qnode = shots(qml.QNode(circuit, device, interface="torch", diff_method="parameter-shift"))
    plain = shots(qml.QNode(circuit, device, diff_method=None))
    ours = numpy2torch(
        lambda x, w: np.asarray(plain(x, w)).reshape(len(x)),
        gradient=ParameterShift(),
        vectorized=True,
        dtype="float64",
    )
    x, start = torch.rand(_BATCH, _QUBITS) * 3, torch.rand(_QUBITS * _LAYERS) * 6
    layer, weights = FunctionLayer(ours, {"w": start}), start.clone().requires_grad_()
    steps: dict[str, Step] = {
        _QNODE: lambda: qnode(x, weights).sum().backward(),
        _OURS: _step(layer, x),
    }
    counts = [f"{name}: {_executions(qml.Tracker(device), step)}" for name, step in steps.items()]
    spread = 5 * (2 * _BATCH * _SHOTS**-1) ** 0.5
    torch.testing.assert_close(layer.w.grad, weights.grad, rtol=0, atol=spread)
    return Measurement(
        title=f"PennyLane layer with {_SHOTS} shots, {_QUBITS} qubits, batch {_BATCH}",
        unit="ms",
        values=timed(steps, seconds=effort.seconds(10), scale=1e3),
        reference=_QNODE,
        bars=[Bar("no slower than PennyLane's own", _OURS, _QNODE, 1.0)],
        notes=[f"Simulated circuits, broadcast ones counted each: {'; '.join(counts)}."],
    )


def _executions(tracker: Any, step: Callable[[], object]) -> Sequence[int]:
    """Return what a device counts during a step."""
    with tracker:
        step()
    return tracker.totals.get("simulations", tracker.totals["executions"])
