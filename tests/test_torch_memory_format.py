"""Where a clone gives a tensor another order in memory, which some operators go by."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch

from bridge import torch2jax

MATRIX = np.random.default_rng(0).normal(size=(3, 6))
FUNCTIONS = {
    "slice": lambda x: torch.linalg.slogdet(x[:, ::2].clone())[1],
    "expanded": lambda x: torch.linalg.det(x[:, :3].expand(2, 3, 3).clone()).sum(),
    "transposed": lambda x: torch.linalg.det(x[:, :3].mT.clone()),
    "dense": lambda x: torch.linalg.det(x[:, :3].mT.contiguous()),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_determinant_of_a_clone_has_the_gradient_of_torch(function):
    x = torch.tensor(MATRIX, requires_grad=True)
    function(x).backward()
    with jax.enable_x64(True):
        mine = jax.grad(torch2jax(function))(jnp.asarray(MATRIX))
    np.testing.assert_allclose(mine, x.grad, rtol=1e-10)
