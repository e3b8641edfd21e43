"""Typed PRNG keys among the results of functions of JAX, which go round in loops of others."""

import numpy as np
import pytest

from tests.conftest import wrapper

jax = pytest.importorskip("jax")
jnp = jax.numpy


def reset(key):
    key, first = jax.random.split(key)
    return {"key": key, "position": jax.random.normal(first, (2,)), "steps": 0}


def step(state, action):
    key, noise = jax.random.split(state["key"])
    position = jnp.sin(state["position"]) * action + jax.random.normal(noise, (2,))
    return {"key": key, "position": position, "steps": state["steps"] + 1}, position.sum()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("jit", [True, False])
def test_a_simulator_goes_round(target, impl, jit):
    wrap = wrapper("jax", target.name)
    start, move, key = wrap(reset, jit=jit), wrap(step, jit=jit), jax.random.key(3, impl=impl)
    state, true = start(key), reset(key)
    for action in (0.5, -1.25, 2.0):
        state, reward = move(state, target.array(np.float32(action)))
        true, expected = step(true, jnp.float32(action))
        np.testing.assert_allclose(target.numpy(reward), expected, rtol=1e-5)
    assert state["key"].dtype == key.dtype
    assert state["key"] == true["key"]
    np.testing.assert_allclose(target.numpy(state["position"]), true["position"], rtol=1e-5)
    assert int(state["steps"]) == 3


def rolled(move, state):
    def loss(action):
        reached, total = state, 0.0
        for _ in range(3):
            reached, reward = move(reached, action)
            total = total + reward * reward
        return total

    return loss


def test_gradients_through_the_other_results(target):
    key = jax.random.key(3)
    move = wrapper("jax", target.name)(step)
    start = reset(key)
    state = {**start, "position": target.array(np.array(start["position"]))}
    loss, true, action = rolled(move, state), rolled(step, start), np.float32(0.75)
    gradient = target.grad(loss)(target.array(action))
    np.testing.assert_allclose(target.numpy(gradient), jax.grad(true)(action), rtol=1e-4)
    tangent = target.jvp(loss, (target.array(action),), (target.array(np.float32(2)),))
    np.testing.assert_allclose(target.numpy(tangent), 2 * jax.grad(true)(action), rtol=1e-4)
    second = target.grad(target.grad(loss))(target.array(action))
    np.testing.assert_allclose(target.numpy(second), jax.hessian(true)(action), rtol=1e-3)


def test_backward_through_the_other_results():
    torch = pytest.importorskip("torch")
    start = wrapper("jax", "torch")(reset)(jax.random.key(3))
    action = torch.tensor(0.75, requires_grad=True)
    rolled(wrapper("jax", "torch")(step), start)(action).backward()
    true = jax.grad(rolled(step, reset(jax.random.key(3))))(jnp.float32(0.75))
    np.testing.assert_allclose(action.grad.numpy(), true, rtol=1e-4)


def test_arrays_of_keys_and_keys_alone(target):
    split = wrapper("jax", target.name)(lambda key: jax.random.split(key, 3))
    keys = split(jax.random.key(0))
    assert (keys == jax.random.split(jax.random.key(0), 3)).all()
    drawn = wrapper("jax", target.name)(jax.vmap(lambda key: jax.random.normal(key, (2,))))(keys)
    true = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
    np.testing.assert_allclose(target.numpy(drawn), true, rtol=1e-6)
    both = wrapper("jax", target.name)(lambda key: (key, jax.random.key_data(key)))
    key, data = both(keys[0])
    assert key == keys[0]
    np.testing.assert_array_equal(target.numpy(data), jax.random.key_data(key))


def test_keys_beside_integers_of_64_bits():
    torch = pytest.importorskip("torch")
    for argument in (torch.arange(3), torch.ones(3, dtype=torch.float64)):
        found, key = wrapper("jax", "torch")(lambda n, key: (n * 2, key))(
            argument, jax.random.key(5)
        )
        assert found.dtype == argument.dtype
        assert key == jax.random.key(5)


def test_batches_refuse_keys_by_name(target):
    batched = target.vmap(wrapper("jax", target.name)(lambda x: (jax.random.key(x), x)))
    text = r"result\[0\] of <lambda> is a key of threefry2x32.*jax.random.key_data"
    with pytest.raises(TypeError, match=text):
        batched(target.array(np.arange(3, dtype="int32")))


def test_graphs_refuse_keys_by_name():
    torch = pytest.importorskip("torch")
    bridged = wrapper("jax", "torch")(lambda x: {"key": jax.random.key(0), "x": x * 2})
    compiled = torch.compile(lambda x: bridged(x)["x"], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"result\['key'\] of <lambda> is a key of threefry2x32"):
        compiled(torch.ones(2))
    assert bridged(torch.ones(2))["key"] == jax.random.key(0)
