"""One circuit that every simulator of qubits runs, and what it has to return, by hand.

Three qubits, two angles x of the data and three weights w. w[1] enters a controlled rotation, with
the frequencies 0.5 and 1, and w[2] enters two rotations, with the frequencies 1 and 2.

    0: ──RX(x[0])──RY(0.4)──●──────────────────RZ(w[2])──X──RY(w[2])──
    1: ──RY(x[1])───────────X──RY(w[0])──●───────────────│────────────
    2: ──────────────────────────────────RY(w[1])────────●────────────

The results are the expectation values of Z on qubit 0, and of X on qubit 1 times Z on qubit 2.
"""

import math

import torch
from torch import cos, sin

# No two angles are related, so that a wrong order or sign is seen.
POINTS = torch.tensor([[0.3, -1.1], [2.3, 0.7], [-0.9, 1.7]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.45, -1.3, 0.8], dtype=torch.float64)
FREQUENCIES = {"x": ((1.0,), (1.0,)), "w": ((1.0,), (0.5, 1.0), (1.0, 2.0))}


def expectations(x, w):
    """The two expectation values, followed from the observables back through the gates."""
    z0, x0, y0 = math.cos(0.4) * cos(x[0]), math.sin(0.4) * cos(x[0]), -sin(x[0])
    z1, x1 = cos(x[1]), sin(x[1])
    off, on = (1 + cos(w[1])) / 2, (1 - cos(w[1])) / 2
    first = cos(w[2]) * (off * z0 + on * (cos(w[0]) * z1 - sin(w[0]) * z0 * x1))
    first = first - sin(w[2]) * (cos(w[2]) * x0 - sin(w[2]) * y0) * x1
    second = cos(w[1] / 2) * (cos(w[0]) * x1 + sin(w[0]) * z0 * z1)
    return torch.stack([first, second])
