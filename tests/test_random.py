"""Random numbers of torch functions in JAX, which follow from a key."""

import numpy as np
import pytest

from bridge import ArgumentError, NoRuleError, OptionError, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = jnp.arange(1.0, 65.0)
KEY = jax.random.key(7)


@torch2jax
def dropped(x, p=0.5):
    return torch.nn.functional.dropout(x, p) * x


def mask(y):
    return np.asarray(y) != 0


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_key_decides_the_mask(wrap):
    f = wrap(lambda x, key: dropped(x, rng=key))
    first = f(X, KEY)
    np.testing.assert_array_equal(first, f(X, KEY))
    np.testing.assert_array_equal(first, dropped(X, rng=KEY))
    assert (mask(first) != mask(f(X, jax.random.key(8)))).any()
    np.testing.assert_allclose(first, np.where(mask(first), 2 * X**2, 0))


def test_legacy_keys_decide_alike():
    np.testing.assert_array_equal(dropped(X, rng=KEY), dropped(X, rng=jax.random.PRNGKey(7)))


def test_the_halves_of_a_key_both_count():
    masks = [mask(dropped(X, rng=jax.random.fold_in(KEY, k))).tobytes() for k in range(50)]
    assert len(set(masks)) == 50


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_forward_and_backward_have_one_mask(wrap):
    value, pull = jax.vjp(wrap(lambda x: dropped(x, rng=KEY)), X)
    np.testing.assert_allclose(pull(jnp.ones(64))[0], np.where(mask(value), 4 * X, 0))


def test_second_order_has_the_same_mask():
    value = dropped(X, rng=KEY)
    found = jax.grad(lambda x: jax.grad(lambda x: dropped(x, rng=KEY).sum())(x).sum())(X)
    np.testing.assert_allclose(found, np.where(mask(value), 4.0, 0))


def test_forward_mode_has_the_same_mask():
    value, tangent = jax.jvp(lambda x: dropped(x, rng=KEY), (X,), (jnp.ones(64),))
    np.testing.assert_allclose(tangent, np.where(mask(value), 4 * X, 0))


def test_a_batch_shares_the_mask_of_its_key():
    alone = dropped(X, rng=KEY)
    batch = jax.vmap(lambda x: dropped(x, rng=KEY))(jnp.stack([X, X + 1]))
    np.testing.assert_array_equal(batch[0], alone)
    np.testing.assert_array_equal(mask(batch[1]), mask(alone))


def test_two_calls_in_one_program_are_two_draws():
    """A compiler merges calls that look alike: these have other keys."""
    one, other = jax.jit(lambda x: (dropped(x, rng=KEY), dropped(x, rng=jax.random.key(1))))(X)
    assert (mask(one) != mask(other)).any()


def test_a_scan_draws_anew_in_each_step():
    keys = jax.random.split(KEY, 20)
    _, rows = jax.lax.scan(lambda c, key: (c, dropped(X, rng=key)), 0, keys)
    for key, row in zip(keys, rows, strict=True):
        np.testing.assert_array_equal(row, dropped(X, rng=key))


def test_the_generators_of_torch_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    dropped(X, rng=KEY)
    assert torch.equal(torch.rand(4), expected)


def test_without_a_key_it_is_refused():
    with pytest.raises(ArgumentError, match=r"dropped draws random numbers.*a key, `rng=`"):
        dropped(X)


def test_a_function_that_draws_nothing_may_have_a_key():
    np.testing.assert_allclose(torch2jax(torch.sin)(X, rng=KEY), jnp.sin(X), rtol=1e-5)


def test_keys_for_each_member_of_a_batch_are_refused():
    with pytest.raises(NoRuleError, match="batched over several"):
        jax.vmap(lambda key: dropped(X, rng=key))(jax.random.split(KEY, 3))


def test_an_array_of_keys_is_refused():
    with pytest.raises(ArgumentError, match=r"shape \[3, 2\]\. Pass one key"):
        dropped(X, rng=jax.random.split(KEY, 3))


def test_a_parameter_called_rng_is_refused():
    with pytest.raises(OptionError, match="has a parameter `rng`"):
        torch2jax(lambda x, rng: x)
