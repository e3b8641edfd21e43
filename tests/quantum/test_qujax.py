"""qujax by `jax2torch`: its angles are in units of pi."""

import jax.numpy as jnp
import pytest
import qujax

from bridge import jax2torch
from tests.quantum.agreement import assert_agrees
from tests.quantum.truth import POINTS, WEIGHTS, expectations

pytestmark = pytest.mark.quantum
# Gate, qubits, and positions among the angles x[0], x[1], 0.4, w[0], w[1], w[2].
GATES = [
    ("Rx", [0], [0]),
    ("Ry", [1], [1]),
    ("Ry", [0], [2]),
    ("CX", [0, 1], []),
    ("Ry", [1], [3]),
    ("CRy", [1, 2], [4]),
    ("Rz", [0], [5]),
    ("CX", [2, 0], []),
    ("Ry", [0], [5]),
]


def test_values_and_derivatives():
    state = qujax.get_params_to_statetensor_func(*zip(*GATES, strict=True))
    observables = [([["Z"]], [[0]]), ([["X", "Z"]], [[1, 2]])]
    means = [
        qujax.get_statetensor_to_expectation_func(paulis, qubits, [1.0])
        for paulis, qubits in observables
    ]

    @jax2torch
    def circuit(x, w):
        angles = jnp.concatenate([x, jnp.array([0.4]), w])
        return jnp.stack([mean(state(angles / jnp.pi)) for mean in means])

    assert_agrees(circuit, expectations, POINTS, WEIGHTS)
