"""Views that are changed in place, under batches of derivatives of torch functions."""

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

XS = np.random.default_rng(2).normal(size=(2, 2, 3)).astype("float32")
MODES = {"graph": {}, "xla": {"lower": "xla"}}


def a_slice(x):
    y = x * 2
    v = y.view(-1)
    v[::2].sin_()
    return y * x


def by_strides(x):
    y = x * 2
    y.as_strided((2,), (2,), 1).sin_()
    return y * x


def two_slices(x):
    y = x * 2
    y.flatten()[::2].sin_()
    y.unsqueeze(0)[0].view(-1)[1::2].mul_(x.view(-1)[::2])
    return y


def native(f):
    """Gradients and Hessians of examples by torch itself, one example after the other."""
    loss = lambda x: (f(x) ** 2).sum()
    gradients, hessians = [], []
    for x in torch.tensor(XS):
        hessians.append(torch.autograd.functional.hessian(loss, x))
        gradients.append(torch.autograd.functional.jacobian(loss, x))
    return torch.stack(gradients), torch.stack(hessians)


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("f", [a_slice, by_strides, two_slices])
def test_batches_of_derivatives(f, options):
    loss = lambda x: (torch2jax(f, **options)(x) ** 2).sum()
    gradients, hessians = native(f)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(XS), gradients, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.vmap(jax.hessian(loss))(XS), hessians, rtol=1e-4, atol=1e-3)
