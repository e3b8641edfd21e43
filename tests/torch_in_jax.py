"""Ways to bring functions of torch to JAX, and one function in both."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from bridge import torch2jax

A = np.random.default_rng(0).normal(size=(3, 3))
MODES = {"graph": {}, "anew": {"capture": "never"}, "xla": {"lower": "xla"}}
modes = pytest.mark.parametrize("options", MODES.values(), ids=MODES)


def xla(function):
    return torch2jax(function, lower="xla")


def in_torch(x):
    return torch.sin(x) * (torch.from_numpy(A).to(x.dtype) @ x) + x.abs() ** 2


def in_jax(x):
    return jnp.sin(x) * (jnp.asarray(A, x.dtype) @ x) + jnp.abs(x) ** 2


def listed(results):
    return list(results) if isinstance(results, (list, tuple)) else [results]
