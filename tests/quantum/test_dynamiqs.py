"""dynamiqs by `jax2torch`: a driven qubit, against the formula of Rabi."""

import dynamiqs as dq
import jax.numpy as jnp
import pytest
import torch

from bridge import jax2torch
from tests.quantum.agreement import assert_agrees

pytestmark = pytest.mark.quantum
TIMES = (0.7, 1.9)
DRIVES = torch.tensor([[1.3, -0.4], [0.6, 0.9]], dtype=torch.float64)


def rabi(drive):
    """The probability of the excited state at two times, for a drive and a detuning."""
    strength, detuning = drive
    rate = (strength**2 + detuning**2).sqrt()
    return torch.stack([(strength / rate * torch.sin(rate * t / 2)) ** 2 for t in TIMES])


@jax2torch
def excited(drive):
    strength, detuning = drive
    hamiltonian = (strength * dq.sigmax() + detuning * dq.sigmaz()) / 2
    result = dq.sesolve(
        hamiltonian,
        dq.ground(),
        jnp.array([0.0, *TIMES]),
        exp_ops=[dq.excited() @ dq.excited().dag()],
        method=dq.method.Tsit5(rtol=1e-10, atol=1e-10, max_steps=64),
        gradient=dq.gradient.HigherOrder(),
        progress_meter=False,
    )
    return result.expects[0, 1:].real


def test_values_and_derivatives():
    assert_agrees(excited, rabi, DRIVES, atol=1e-8)
