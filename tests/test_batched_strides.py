"""Operators whose results have other strides in a batch than alone, and views of these results."""

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
F = torch.nn.functional

RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(3, 1, 4, 8)).astype("float32")


def heads(x):
    return x.unflatten(-1, (2, 4)).transpose(1, 2)


def attention(x):
    """As models of transformers compute it, whose heads share keys and values."""
    shared = x[..., :4].unflatten(-1, (1, 4)).transpose(1, 2).expand(-1, 2, -1, -1)
    y = F.scaled_dot_product_attention(heads(x), shared, shared, is_causal=True)
    return y.transpose(1, 2).reshape(1, 4, 8).contiguous()


FUNCTIONS = {
    "attention": attention,
    "matrix product": lambda x: (heads(x) @ heads(x).mT).transpose(1, 2).reshape(1, -1),
    "convolution": lambda x: F.conv1d(x, x[:, :, :3].repeat(2, 1, 1)).mT.reshape(1, -1),
    "permutation": lambda x: x.sin().permute(2, 0, 1).cumsum(0).permute(1, 2, 0).reshape(-1),
    "pooling": lambda x: F.avg_pool1d(x, 2).mT.reshape(-1),
    "fft": lambda x: torch.fft.rfft(x, dim=1).abs().mT.reshape(-1),
    "solution": lambda x: torch.linalg.solve(
        x[0, :, :4] + 9 * torch.eye(4), x[0, :, 4:]
    ).mT.reshape(-1),
    "sorted": lambda x: x.sort(1).values.mT.reshape(-1),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_examples_equal_those_alone(name, lower):
    fn = FUNCTIONS[name]
    there = torch2jax(fn, capture="require", lower=lower)
    values, gradients = jax.vmap(jax.value_and_grad(lambda x: (there(x) ** 2).sum()))(X)
    for i, example in enumerate(X):
        x = torch.tensor(example, requires_grad=True)
        native = (fn(x) ** 2).sum()
        native.backward()
        np.testing.assert_allclose(values[i], native.detach(), rtol=1e-3)
        np.testing.assert_allclose(gradients[i], x.grad, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "attention"])
def test_second_derivatives_of_examples_equal_those_alone(name):
    """Torch has none of attention."""
    fn = FUNCTIONS[name]
    there = torch2jax(fn, capture="require")
    steepness = lambda x: (jax.grad(lambda x: (there(x) ** 2).sum())(x) ** 2).sum()
    found = jax.vmap(jax.grad(steepness))(X)
    for i, example in enumerate(X):
        x = torch.tensor(example, requires_grad=True)
        (slope,) = torch.autograd.grad((fn(x) ** 2).sum(), x, create_graph=True)
        (native,) = torch.autograd.grad((slope**2).sum(), x)
        scale = native.abs().max()
        np.testing.assert_allclose(found[i], native, rtol=1e-2, atol=1e-3 * scale)
