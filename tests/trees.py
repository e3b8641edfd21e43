"""Two arrays for arguments and results of any structure, and what tests of those share."""

from typing import Any, NamedTuple

import numpy as np

A = np.array([0.3, -1.2, 2.0], np.float32)
B = np.array([[1.1, -0.4, 0.7], [0.2, 0.5, -0.9]], np.float32)
COTANGENT_A = np.array([0.5, -2.0, 1.5], np.float32)
COTANGENT_B = np.array([[0.1, 3.0, -0.6], [2.5, -0.2, 0.8]], np.float32)


class Pair(NamedTuple):
    a: Any
    b: Any


def leaf(torch, values):
    return torch.tensor(values, requires_grad=True)
