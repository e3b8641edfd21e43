"""Qiskit's `StatevectorEstimator` in torch and in JAX, with one PUB for all points."""

import functools

import jax
import numpy as np
import pytest
import torch
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import StatevectorEstimator
from qiskit.quantum_info import SparsePauliOp

from bridge import numpy2jax, numpy2torch
from bridge.rules import ParameterShift
from tests.quantum.agreement import assert_agrees
from tests.quantum.truth import FREQUENCIES, POINTS, WEIGHTS, expectations

pytestmark = pytest.mark.quantum
RULES = {name: ParameterShift(frequencies) for name, frequencies in FREQUENCIES.items()}
X, W = ParameterVector("x", 2), ParameterVector("w", 3)
# Qiskit writes the last qubit first. The column is an axis beside that of the points.
OBSERVABLES = [[SparsePauliOp("IIZ")], [SparsePauliOp("ZXI")]]


@functools.cache
def circuit():
    qubits = QuantumCircuit(3)
    qubits.rx(X[0], 0)
    qubits.ry(X[1], 1)
    qubits.ry(0.4, 0)
    qubits.cx(0, 1)
    qubits.ry(W[0], 1)
    qubits.cry(W[1], 1, 2)
    qubits.rz(W[2], 0)
    qubits.cx(2, 0)
    qubits.ry(W[2], 0)
    return qubits


def estimate(x, w):
    job = StatevectorEstimator().run([(circuit(), OBSERVABLES, {X: x, W: w})])
    return job.result()[0].data.evs.T


def test_values_and_derivatives():
    function = numpy2torch(estimate, gradient=RULES, vectorized=True)
    assert_agrees(function, expectations, POINTS, WEIGHTS)


def test_a_hessian_in_jax_is_one_job():
    jobs = []
    record = jobs.append

    @numpy2jax(gradient=RULES, vectorized=True, dtype="float64", out=np.empty(2))
    def function(x, w):
        record(len(x))
        return estimate(x, w)

    with jax.enable_x64(True):
        x, w = jax.numpy.asarray(POINTS[0]), jax.numpy.asarray(WEIGHTS)
        derivatives = jax.jit(jax.hessian(function, argnums=(0, 1)))(x, w)
        assert len(jobs) == 1
        expected = torch.func.hessian(expectations, argnums=(0, 1))(POINTS[0], WEIGHTS)
        for block, by_hand in zip(
            jax.tree.leaves(derivatives), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(block, by_hand, atol=1e-10)


def test_quirk_a_qnn_asks_its_estimator_for_noise():
    networks = pytest.importorskip("qiskit_machine_learning.neural_networks")
    estimator = StatevectorEstimator(seed=0)
    assert estimator.default_precision == 0
    run = lambda **options: networks.EstimatorQNN(
        circuit=circuit(),
        observables=OBSERVABLES[0],
        input_params=X,
        weight_params=W,
        estimator=estimator,
        **options,
    ).forward(POINTS[0].numpy(), WEIGHTS.numpy())
    exact = expectations(POINTS[0], WEIGHTS)[0].item()
    assert run(default_precision=0.0) == pytest.approx(exact, abs=1e-10)
    assert abs(run() - exact) > 1e-4
