"""Random numbers of functions of torch that XLA compiles."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from tests.torch_in_jax import xla

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(7)
ONES = np.ones(64)


def dropped(x):
    return torch.nn.functional.dropout(x, 0.25) * x


def test_forward_and_backward_draw_the_same():
    f = lambda x: xla(dropped)(x, rng=KEY)
    value, pull = jax.vjp(f, ONES)
    kept = np.asarray(value) != 0
    assert 30 < kept.sum() < 60
    np.testing.assert_allclose(pull(ONES)[0], np.where(kept, 8 / 3, 0), rtol=1e-12)
    np.testing.assert_allclose(jax.jvp(f, (ONES,), (ONES,))[1], np.where(kept, 8 / 3, 0))
    np.testing.assert_allclose(jax.vmap(f)(jnp.stack([ONES, ONES])), [value, value])
    second = jax.grad(lambda x: jax.grad(lambda x: f(x).sum())(x).sum())(ONES)
    np.testing.assert_allclose(second, np.where(kept, 8 / 3, 0), rtol=1e-12)
    other = xla(dropped)(ONES, rng=jax.random.key(8))
    assert ((np.asarray(other) != 0) != kept).any()


def test_numbers_drawn_one_after_the_other_differ():
    first, second = xla(lambda x: (torch.rand_like(x), torch.rand_like(x)))(ONES, rng=KEY)
    assert (first != second).all()


DRAWS = {
    "rand": (lambda: torch.rand(4000), 0.5, 1 / 12),
    "randn": (lambda: torch.randn(4000), 0.0, 1.0),
    "normal": (lambda: torch.normal(2.0, torch.full((4000,), 3.0)), 2.0, 9.0),
    "normal in place": (lambda: torch.empty(4000).normal_(5.0, 0.5), 5.0, 0.25),
    "bernoulli": (lambda: torch.bernoulli(torch.full((4000,), 0.3)), 0.3, 0.21),
    "bernoulli in place": (lambda: torch.empty(4000).bernoulli_(0.3), 0.3, 0.21),
    "randint": (lambda: torch.randint(2, 8, (4000,)).float(), 4.5, 35 / 12),
    "uniform": (lambda: torch.empty(4000).uniform_(-1, 3), 1.0, 16 / 12),
    "exponential": (lambda: torch.empty(4000).exponential_(2.0), 0.5, 0.25),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([1.0, 3.0]), 4000, replacement=True).float(),
        *(0.75, 0.1875),
    ),
    "permutation": (lambda: torch.randperm(4000).float() / 4000, 0.5, 1 / 12),
}


@pytest.mark.parametrize(("draw", "mean", "variance"), DRAWS.values(), ids=DRAWS)
def test_random_numbers_have_their_distribution(draw, mean, variance):
    found = np.asarray(xla(lambda x: x + draw())(jnp.zeros((), "float32"), rng=KEY))
    assert abs(found.mean() - mean) < 5 * (variance / 4000) ** 0.5
    np.testing.assert_allclose(found.var(), variance, rtol=0.15)


def test_a_key_is_asked_for_attention_with_dropout_alone():
    q = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 5, 4)))
    attention = torch.nn.functional.scaled_dot_product_attention
    f = xla(lambda q: attention(q, q, q))
    native = jax.nn.softmax(q @ jnp.swapaxes(q, -1, -2) / 2) @ q
    np.testing.assert_allclose(f(q), native, rtol=1e-9)
    some = xla(lambda q: attention(q, q, q, dropout_p=0.5))
    assert not np.allclose(some(q, rng=KEY), native)
