"""Points at which functions of JAX are differentiated in torch."""

import numpy as np
import torch

RANDOM = np.random.default_rng(14)
X = RANDOM.uniform(0.3, 1.5, (4,)).astype("float32")


def leaf(x=X, dtype=torch.float32):
    return torch.tensor(x, dtype=dtype, requires_grad=True)
