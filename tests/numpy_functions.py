"""Functions on NumPy arrays at the top of a module, which other processes can import."""

import numpy as np

from bridge import numpy2torch
from bridge.rules import ParameterShift


def sines(x):
    return {"sin": np.sin(x), "more": (x.sum(),)}


def sine(x):
    return np.sin(x)


def noisy_sine(x, *, rng):
    return np.sin(x) + rng.normal(size=x.shape)


def refuses_large(x):
    if x[1] > 1.9:
        raise ValueError("too large")
    return np.sin(x)


class Elsewhere:
    """An executor for a decorator, which a test sets later."""

    executor = None

    def map(self, *args):
        return self.executor.map(*args)


ELSEWHERE = Elsewhere()


@numpy2torch(gradient=ParameterShift(), executor=ELSEWHERE)
def decorated_sine(x):
    return np.sin(x)
