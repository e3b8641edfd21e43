"""Random numbers of torch functions in JAX, which follow from a key."""

import numpy as np
import pytest

from bridge import ArgumentError, OptionError, torch2jax

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


XS = jnp.stack([X, X + 1, 2 * X])
KEYS = jax.random.split(KEY, 3)
EACH = {
    "value": lambda x, key: dropped(x, rng=key),
    "gradient": jax.grad(lambda x, key: (dropped(x, rng=key) ** 2).sum()),
    "value and gradient": jax.value_and_grad(lambda x, key: (dropped(x, rng=key) ** 2).sum()),
    "tangent": lambda x, key: jax.jvp(lambda x: dropped(x, rng=key), (x,), (x + 3,))[1],
    "second order": lambda x, key: jax.grad(
        lambda x: jax.grad(lambda x: (dropped(x, rng=key) ** 3).sum())(x).sum()
    )(x),
    "checkpoint": jax.grad(jax.checkpoint(lambda x, key: (dropped(x, rng=key) ** 2).sum())),
    "batch within": lambda x, key: jax.vmap(lambda x: dropped(x, rng=key))(jnp.stack([x, x + 1])),
    "gradient within": lambda x, key: jax.grad(
        lambda x: (jax.vmap(lambda r: dropped(r, rng=key))(jnp.stack([x, x + 1])) ** 2).sum()
    )(x),
    "keys within": lambda x, key: jax.vmap(lambda k: dropped(x, rng=k))(jax.random.split(key)),
    "looks at values": lambda x, key: looking(x, rng=key),
}


@torch2jax(capture="never")
def looking(x):
    return torch.nn.functional.dropout(x) * (2 if x.sum() > 0 else 3)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("one", EACH.values(), ids=EACH)
def test_each_of_a_batch_draws_from_its_key_what_it_would_alone(one, wrap):
    found = wrap(jax.vmap(one))(XS, KEYS)
    for n, (x, key) in enumerate(zip(XS, KEYS, strict=True)):
        row = jax.tree.map(lambda y, n=n: y[n], found)
        jax.tree.map(np.testing.assert_array_equal, row, one(x, key))


def test_gradients_of_a_batch_with_keys():
    batch = lambda x, w: jax.vmap(lambda x, key: dropped(x * w, rng=key), (1, 0))(x, KEYS)
    x, w = XS.T + 0, jnp.linspace(0.5, 2.0, 64)
    masks = [mask(dropped(row, rng=key)) for row, key in zip(XS, KEYS, strict=True)]
    found = jax.jit(jax.grad(lambda x, w: batch(x, w).sum(), (0, 1)))(x, w)
    scale = 4 * np.stack(masks) * np.asarray(XS)  # of 2 x^2 w^2
    np.testing.assert_allclose(found[0].T, scale * w**2, rtol=1e-5)
    np.testing.assert_allclose(found[1], (scale * XS * w).sum(0), rtol=1e-5)
    shared = jax.grad(lambda x: jax.vmap(lambda key: dropped(x, rng=key))(KEYS).sum())(X)
    others = sum(mask(dropped(X, rng=key)) for key in KEYS)
    np.testing.assert_allclose(shared, 4 * others * X, rtol=1e-5)


def test_a_batch_of_keys_is_one_call():
    text = str(jax.make_jaxpr(jax.vmap(EACH["value"]))(XS, KEYS))
    assert text.count("bridge_call") == 1
    assert jax.vmap(EACH["value"])(XS[:0], KEYS[:0]).shape == (0, 64)


def test_modules_in_training_draw_from_their_keys():
    net = torch2jax(torch.nn.Sequential(torch.nn.Linear(64, 4), torch.nn.Dropout()))

    def loss(params, x, key):
        return (net.apply(params, net.buffers, x, rng=key)[0] ** 2).sum()

    total = lambda params: jax.vmap(loss, (None, 0, 0))(params, XS, KEYS).sum()
    alone = [jax.grad(loss)(net.params, x, key) for x, key in zip(XS, KEYS, strict=True)]
    summed = jax.tree.map(lambda *gs: sum(gs), *alone)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
    jax.tree.map(close, jax.jit(jax.grad(total))(net.params), summed)


def test_an_array_of_keys_is_refused():
    with pytest.raises(ArgumentError, match=r"shape \[3, 2\]\. Pass one key, or map"):
        dropped(X, rng=jax.random.split(KEY, 3))


def test_a_parameter_called_rng_is_refused():
    with pytest.raises(OptionError, match="has a parameter `rng`"):
        torch2jax(lambda x, rng: x)
