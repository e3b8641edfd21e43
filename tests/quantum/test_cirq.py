"""cirq's simulator of state vectors, with a sweep over all points, by `numpy2torch`."""

import cirq
import numpy as np
import pytest
import sympy

from bridge import numpy2torch
from bridge.rules import ParameterShift
from tests.quantum.agreement import assert_agrees
from tests.quantum.truth import FREQUENCIES, POINTS, WEIGHTS, expectations

pytestmark = pytest.mark.quantum
RULES = {name: ParameterShift(frequencies) for name, frequencies in FREQUENCIES.items()}
NAMES = ["x0", "x1", "w0", "w1", "w2"]
X0, X1, W0, W1, W2 = map(sympy.Symbol, NAMES)
A, B, C = cirq.LineQubit.range(3)
CIRCUIT = cirq.Circuit(
    cirq.rx(X0)(A),
    cirq.ry(X1)(B),
    cirq.ry(0.4)(A),
    cirq.CNOT(A, B),
    cirq.ry(W0)(B),
    cirq.ry(W1)(C).controlled_by(B),
    cirq.rz(W2)(A),
    cirq.CNOT(C, A),
    cirq.ry(W2)(A),
)
OBSERVABLES = [cirq.Z(A), cirq.X(B) * cirq.Z(C)]


def test_values_and_derivatives():
    simulator = cirq.Simulator(dtype=np.complex128)  # which is complex64 by default

    @numpy2torch(gradient=RULES, vectorized=True)
    def circuit(x, w):
        sweep = cirq.ListSweep(
            cirq.ParamResolver(dict(zip(NAMES, row, strict=True))) for row in np.hstack([x, w])
        )
        return np.real(simulator.simulate_expectation_values_sweep(CIRCUIT, OBSERVABLES, sweep))

    assert_agrees(circuit, expectations, POINTS, WEIGHTS)
