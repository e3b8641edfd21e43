"""TensorCircuit-NG by `jax2torch`."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tensorcircuit as tc
import torch

from bridge import jax2torch
from tests.quantum.agreement import assert_agrees, close
from tests.quantum.truth import POINTS, WEIGHTS, expectations

pytestmark = pytest.mark.quantum


def circuit(x, w):
    c = tc.Circuit(3)
    c.rx(0, theta=x[0])
    c.ry(1, theta=x[1])
    c.ry(0, theta=0.4)
    c.cnot(0, 1)
    c.ry(1, theta=w[0])
    c.cry(1, 2, theta=w[1])
    c.rz(0, theta=w[2])
    c.cnot(2, 0)
    c.ry(0, theta=w[2])
    values = c.expectation_ps(z=[0]), c.expectation_ps(x=[1], z=[2])
    return jnp.real(jnp.stack(values))


@pytest.fixture(autouse=True)
def backend():
    with tc.runtime_backend("jax"):
        yield


def test_in_double_precision():
    with tc.runtime_dtype("complex128"):
        jax.config.update("jax_enable_x64", False)  # which TensorCircuit turned on for everybody
        assert_agrees(jax2torch(circuit), expectations, POINTS, WEIGHTS)
        assert jnp.ones(1).dtype == jnp.float32


def test_quirk_its_own_dtype_decides_not_that_of_the_angles():
    with tc.runtime_dtype("complex64"):
        values = jax2torch(circuit)(POINTS[0], WEIGHTS)
    assert values.dtype == torch.float32
    close(values.double(), expectations(POINTS[0], WEIGHTS), atol=1e-5, rtol=0)


def test_quirk_importing_it_turns_64_bits_off_and_its_dtype_turns_them_on():
    code = """
import jax

jax.config.update("jax_enable_x64", True)
import tensorcircuit as tc

assert not jax.config.jax_enable_x64
tc.set_dtype("complex128")
assert jax.config.jax_enable_x64
"""
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
