"""Functions with weights in torch: Haiku, and functions of one's own."""

import copy
import pickle

import numpy as np
import pytest

from bridge import ArgumentError, Functional, jax2torch, to_jax, to_torch

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
optax = pytest.importorskip("optax")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
KEY = jax.random.key(3)
KEY_DATA = to_torch(jax.random.key_data(KEY))


@pytest.fixture(scope="module")
def hk():
    return pytest.importorskip("haiku")


def tensor(x):
    return torch.tensor(np.asarray(x))


def test_haiku_with_state(hk):
    def net(x, is_training):
        x = hk.BatchNorm(True, True, 0.8)(hk.Linear(4)(x), is_training)
        return hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else jax.numpy.tanh(x)

    transformed = hk.transform_with_state(net)
    params, state = transformed.init(KEY, X, True)
    layer = jax2torch(Functional(transformed.apply, params, state))
    assert {name for name, _ in layer.named_parameters()} == {
        *("linear.w", "linear.b", "batch_norm.scale", "batch_norm.offset")
    }
    assert "batch_norm/~/mean_ema.average" in dict(layer.named_buffers())
    for _ in range(2):
        found = layer(tensor(X), rng=KEY_DATA)
        expected, state = transformed.apply(params, state, KEY, X, True)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    random = torch.get_rng_state()
    found = layer.eval()(tensor(X))
    assert (torch.get_rng_state() == random).all()
    expected, _ = transformed.apply(params, state, None, X, False)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-5)
    back = to_jax(layer)
    assert isinstance(back, Functional)
    for found, true in zip(jax.tree.leaves(back.buffers), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-7)


def test_steps_of_an_optimizer_with_haiku_equal_those_of_optax(hk):
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 2])(x)))
    params, rule = net.init(KEY, X), optax.rmsprop(0.1, decay=0.9, eps=1e-8, eps_in_sqrt=False)
    layer = jax2torch(Functional(net.apply, params))
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.1, alpha=0.9)
    state = rule.init(params)
    gradient = jax.jit(jax.grad(lambda params: (net.apply(params, X) ** 2).mean()))
    for _ in range(3):
        optimizer.zero_grad()
        (layer(tensor(X)) ** 2).mean().backward()
        optimizer.step()
        updates, state = rule.update(gradient(params), state)
        params = optax.apply_updates(params, updates)
    for found, true in zip(
        jax.tree.leaves(to_jax(layer).params), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-5)


def test_haiku_with_a_key_that_nothing_draws_from(hk):
    net = hk.transform(lambda x: hk.Linear(4)(x))
    layer = jax2torch(Functional(net.apply, net.init(KEY, X)))
    state = torch.get_rng_state()
    batched = torch.func.vmap(layer)(tensor(X))
    torch.testing.assert_close(batched, layer(tensor(X)))
    assert (torch.get_rng_state() == state).all()


def test_haiku_draws(hk):
    net = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(4)(x)))
    params = net.init(KEY, X)
    layer = jax2torch(Functional(net.apply, params))
    found = layer(tensor(X), rng=KEY_DATA)
    np.testing.assert_allclose(found.detach(), net.apply(params, KEY, X), rtol=1e-5, atol=1e-6)
    torch.manual_seed(1)
    first = layer(tensor(X))
    assert (layer(tensor(X)) != first).any()
    torch.manual_seed(1)
    torch.testing.assert_close(layer(tensor(X)), first)


def test_haiku_without_values(hk):
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Linear(4)(x)))
    layer = jax2torch(Functional(net.apply, jax.eval_shape(net.init, KEY, X)))
    assert {x.device.type for x in layer.parameters()} == {"meta"}
    params = net.init(KEY, X)
    layer.to_empty(device="cpu").load_state_dict(
        jax2torch(Functional(net.apply, params)).state_dict()
    )
    np.testing.assert_allclose(layer(tensor(X)).detach(), net.apply(params, X), rtol=1e-5)


def affine(params, buffers, x, *, train, rng=None):
    y = params["w"] * x + params["b"][0]
    noise = 0.1 * jax.random.normal(rng, x.shape) if train else 0.0
    return y + noise, {"sum": buffers["sum"] + y.sum(0), "calls": buffers["calls"] + 1}


def make_affine():
    params = {"w": jax.numpy.array([1.0, -2.0, 3.0]), "b": [jax.numpy.array(0.5)]}
    return Functional(affine, params, {"sum": jax.numpy.zeros(3), "calls": jax.numpy.array(0)})


def test_a_function_of_ones_own():
    layer = jax2torch(make_affine())
    layer(tensor(X)).sum().backward()
    np.testing.assert_allclose(layer.w.grad, X.sum(0), rtol=1e-5)
    np.testing.assert_allclose(layer.get_parameter("b.0").grad, X.size)
    assert layer.calls == 1
    expected = np.array([1, -2, 3], "float32") * X + 0.5
    np.testing.assert_allclose(layer.sum, expected.sum(0), rtol=1e-4)
    np.testing.assert_allclose(layer.eval()(tensor(X)).detach(), expected, rtol=1e-5)
    assert layer.calls == 2  # it counts in evaluation too
    for way in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        np.testing.assert_allclose(way(layer)(tensor(X)).detach(), expected, rtol=1e-5)


def test_single_arrays():
    layer = jax2torch(Functional(lambda p, b, x: (p * x, b + x.sum(0)), X[0], X[1]))
    layer(tensor(X))
    assert {name for name, _ in layer.named_parameters()} == {"weight"}
    np.testing.assert_allclose(layer.buffer, X[1] + X.sum(0), rtol=1e-5)


def test_typed_keys_are_keys():
    noise = lambda params, x, rng: params["w"] * jax.random.normal(rng, x.shape)
    layer, key = jax2torch(Functional(noise, {"w": X[0]})), jax.random.key(7)
    expected = X[0] * jax.random.normal(key, X.shape)
    np.testing.assert_allclose(layer(tensor(X), rng=key).detach(), expected, rtol=1e-6)


REFUSED = {
    "a number": ({"w": X[0], "s": 2.0}, None, lambda p, x: x, "'s' among the params is a float"),
    "one output": (X, X, lambda p, b, x: x, "return the output and the new buffers"),
    "others": (X, X, lambda p, b, x: (x, [b]), "the new buffers are"),
    "a shape": (X, X, lambda p, b, x: (x, b[:1]), r"is float32\[5,3\], but float32\[1,3\] among"),
    "a kind": (X, X.astype(int), lambda p, b, x: (x, b + 0.5), r"int32\[5,3\], but float32"),
    "a tuple": (X, X, lambda p, b, x: (x, 1), "but a int among the new ones"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(kind):
    params, buffers, apply, text = REFUSED[kind]
    with pytest.raises(ArgumentError, match=text):
        jax2torch(Functional(apply, params, buffers))(tensor(X))
