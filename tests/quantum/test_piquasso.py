"""piquasso's photons by `numpy2torch`: two of them in an interferometer, against a permanent."""

import math

import piquasso as pq
import pytest
import torch

from bridge import numpy2torch
from bridge.rules import ParameterShift
from tests.quantum.agreement import assert_agrees

pytestmark = pytest.mark.quantum
PHASES = torch.tensor([[0.3, -1.1], [2.3, 0.7], [-0.9, 1.7]], dtype=torch.float64)
ANGLE = torch.tensor(0.8, dtype=torch.float64)
# An angle is met once by each photon, in amplitudes, and probabilities square these.
RULES = {"phase": ParameterShift((1, 2)), "angle": ParameterShift((2, 4))}


def coincidences(phase, angle):
    """The probability of one photon in each mode, for one photon in each mode."""
    first = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.complex128)
    between = torch.diag(torch.exp(1j * phase))
    last = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    a, b, c, d = (last.to(between.dtype) @ between @ first).flatten()
    return (a * d + b * c).abs() ** 2


def simulate(phase, angle):
    with pq.Program() as program:
        pq.Q() | pq.NumberState([1, 1])
        pq.Q(0, 1) | pq.Beamsplitter(theta=math.asin(0.6))
        pq.Q(0) | pq.Phaseshifter(phi=phase[0])
        pq.Q(1) | pq.Phaseshifter(phi=phase[1])
        pq.Q(0, 1) | pq.Beamsplitter(theta=angle)
    simulator = pq.PureFockSimulator(d=2, config=pq.Config(cutoff=3))
    state = simulator.execute(program).state
    return state.get_particle_detection_probability(occupation_number=(1, 1))


def test_values_and_derivatives():
    assert_agrees(numpy2torch(simulate, gradient=RULES), coincidences, PHASES, ANGLE)
