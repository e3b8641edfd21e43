"""Collections of bound modules of Flax linen that a call changes, in torch."""

import pickle

import numpy as np
import pytest

from bridge import ArgumentError, jax2mlx, jax2torch, to_jax

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
linen = pytest.importorskip("flax.linen")
mx = pytest.importorskip("mlx.core")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
KEY = jax.random.key(3)


class Counter(linen.Module):
    """Counts its calls in a collection; tells which collections it may change."""

    collection: str = "cache"

    @linen.compact
    def __call__(self, x, train=False):
        count = self.variable(self.collection, "calls", lambda: jax.numpy.zeros(()))
        x = linen.BatchNorm(use_running_average=not train)(x)
        if not self.is_initializing():
            count.value += 1
        return x * count.value


class Normalization(linen.Module):
    """Statistics within a loop of Flax, which hands all mutable collections through."""

    @linen.compact
    def __call__(self, x, train=False):
        loop = linen.scan(
            linen.remat(_Step, static_argnums=(2,)),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=linen.broadcast,
            length=2,
        )
        return loop()(x, train)[0]


class _Step(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        return linen.BatchNorm(use_running_average=not train)(x) + 1, None


@pytest.mark.parametrize("collection", ["cache", "counter"])
def test_collection_that_is_immutable_in_evaluation_is_named(collection):
    net = Counter(collection)
    layer = jax2torch(net.bind(net.init(KEY, X), mutable=["batch_stats"]))
    for calls in (1, 2):
        layer(torch.tensor(X))
        assert layer.get_buffer(f"{collection}.calls") == calls
    with pytest.raises(ArgumentError) as raised:
        layer.eval()(torch.tensor(X))
    assert str(raised.value) == (
        'Counter cannot be called: Cannot update variable "calls" in "/" because collection '
        f'"{collection}" is immutable. In evaluation a call stores the collections that the module '
        f"was bound with for this: `.bind(variables, mutable=['batch_stats', '{collection}'])`. "
        "Or set the module to training, `.train()`."
    )
    assert layer.get_buffer(f"{collection}.calls") == 2


def test_cache_of_attention_is_stored_in_evaluation():
    net = linen.MultiHeadDotProductAttention(2, decode=True, qkv_features=4)
    variables = net.init(KEY, np.ones((1, 4, 2), "float32"))
    layer = jax2torch(net.bind(variables, mutable=["cache"])).eval()
    for i in range(3):
        query = X[None, i : i + 1, :2]
        output, new = net.apply(variables, query, mutable=["cache"])
        variables = {**variables, **new}
        np.testing.assert_allclose(layer(torch.tensor(query)).detach(), output, rtol=1e-5)
    assert layer.get_buffer("cache.cache_index") == 3
    layer = jax2torch(net.bind(variables)).eval()
    with pytest.raises(
        ArgumentError, match=r'"cache" is immutable.*\(variables, mutable=\[.cache.\]'
    ):
        layer(torch.tensor(query))


@pytest.mark.parametrize("mutable", [["cache"], True, linen.DenyList(("batch_stats",))])
@pytest.mark.parametrize("bridge", [jax2torch, jax2mlx])
def test_collections_that_it_was_bound_with_are_stored_in_evaluation(mutable, bridge):
    net = Counter()
    xs, bound = (mx.array(X) if bridge is jax2mlx else torch.tensor(X)), net.init(KEY, X)
    first = bridge(net.bind(bound, mutable=mutable)).eval()
    again = bridge(to_jax(pickle.loads(pickle.dumps(first)))).eval()
    for layer in (first, again):
        outputs = [np.array(layer(xs).tolist()) for _ in range(3)]
        np.testing.assert_allclose(outputs[2], 3 * outputs[0], rtol=1e-5)
        assert to_jax(layer).variables["cache"]["calls"] == 3
        assert to_jax(layer).is_mutable_collection("cache")
        assert (to_jax(layer).variables["batch_stats"]["BatchNorm_0"]["mean"] == 0).all()


def test_mutable_collections_that_a_loop_hands_through_keep_their_values():
    net = Normalization()
    variables = net.init(KEY, X)
    layer = jax2torch(net.bind(variables, mutable=True)).eval()
    expected = net.apply(variables, X)
    for _ in range(2):
        np.testing.assert_allclose(layer(torch.tensor(X)).detach(), expected, rtol=1e-5)


def test_parameters_that_a_call_changes_are_named_in_training():
    class Scale(linen.Module):
        @linen.compact
        def __call__(self, x):
            scale = self.param("scale", linen.initializers.ones, (3,))
            if not self.is_initializing():
                self.put_variable("params", "scale", scale / 2)
            return x * scale

    layer = jax2torch(Scale().bind(Scale().init(KEY, X)))
    with pytest.raises(
        ArgumentError, match=r'"params" is immutable\. A call stores the collections'
    ):
        layer(torch.tensor(X))
