"""Checks of values within captured functions of torch: assertions and those of distributions."""

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
D = torch.distributions

P, X = (np.array(row, "float32") for row in ([0.3, -0.7, 0.9], [0.2, 1.1, -0.5]))


def checked(x, scale):
    torch._assert_async((scale > 0).all(), "scales are above 0")
    return (x / scale).square().sum()


TRANSFORMED = {
    "value": lambda f: f,
    "gradient": jax.grad,
    "value and gradient": jax.value_and_grad,
    "gradient by what is checked": lambda f: jax.grad(f, argnums=1),
    "Hessian": jax.hessian,
    "batch of gradients": lambda f: jax.vmap(jax.grad(f)),
}


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_an_assertion_is_held_by_derivatives(transform, jit):
    fn = transform(torch2jax(checked, capture="require"))
    fn = jax.jit(fn) if jit else fn
    x = jnp.stack([jnp.asarray(X)] * 2)
    fn(x, jnp.ones_like(x))
    with pytest.raises(Exception, match="scales are above 0"):
        jax.block_until_ready(fn(x, jnp.full_like(x, -0.5)))


DISTRIBUTIONS = {
    "normal": lambda p, x: D.Normal(p, x.exp()).log_prob(x),
    "Bernoulli": lambda p, x: D.Bernoulli((p * x).sigmoid()).log_prob((x > 0).float()),
    "beta": lambda p, x: D.Beta(p.exp(), x.exp()).log_prob(x.sigmoid()),
    "Dirichlet": lambda p, x: D.Dirichlet(p.exp()).log_prob(x.softmax(-1)),
    "categorical": lambda p, x: D.Categorical(logits=p * x).log_prob(torch.tensor(1)),
    "log-normal": lambda p, x: D.LogNormal(p, x.exp()).log_prob(x.exp()),
    "mixture": lambda p, x: D.MixtureSameFamily(
        D.Categorical(logits=p), D.Normal(x, x.exp())
    ).log_prob(torch.tensor(0.3)),
    "divergence": lambda p, x: D.kl_divergence(D.Normal(p, x.exp()), D.Normal(x, p.exp())),
}


@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("density", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_distributions_are_captured(density, lower):
    loss = lambda p, x: density(p, x).sum()
    p, x = (torch.tensor(row, requires_grad=True) for row in (P, X))
    true = torch.autograd.grad(loss(p, x), (p, x))
    there = torch2jax(loss, capture="require", lower=lower)
    gradients = jax.jit(jax.grad(there, argnums=(0, 1)))(P, X)
    for gradient, native in zip(gradients, true, strict=True):
        np.testing.assert_allclose(gradient, native, rtol=1e-4, atol=1e-5)


def test_batches_of_distributions():
    density = lambda p, x: D.Normal(p, x, validate_args=True).log_prob(x * p).sum()
    there = torch2jax(density, capture="require")
    batch = np.stack([P, X]), np.exp(np.stack([X, P]))
    slopes = jax.vmap(jax.grad(there, argnums=1))(*batch)
    for p, x, slope in zip(*batch, slopes, strict=True):
        x = torch.tensor(x, requires_grad=True)
        density(torch.tensor(p), x).backward()
        np.testing.assert_allclose(slope, x.grad, rtol=1e-4)
    with pytest.raises(RuntimeError, match=r"not within its constraint|Expected"):
        jax.vmap(there)(batch[0], batch[1] - 1)


def test_what_a_distribution_checks_is_held_by_gradients():
    there = torch2jax(
        lambda p, x: D.Gamma(p, p, validate_args=True).log_prob(x).sum(), capture="require"
    )
    assert there(jnp.ones(3), jnp.ones(3)) == -3
    for fn in (there, jax.grad(there)):
        with pytest.raises(RuntimeError, match=r"not within its constraint|Expected"):
            fn(jnp.ones(3), -jnp.ones(3))
