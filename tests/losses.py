"""A loss with its gradient, at other points for each thread or process."""

import numpy as np
import torch

X = np.random.default_rng(41).uniform(0.3, 1.5, (4, 3)).astype("float32")


def loss(xp, x):
    return (xp.sin(x) * x).sum()


def slope(x):
    x = x.detach()
    return x.cos() * x + x.sin()


def point(i, *shape):
    """A point of its own for each thread."""
    values = torch.linspace(0.1, 1.5, int(np.prod(shape))).reshape(shape)
    return (values + 0.01 * i).requires_grad_()
