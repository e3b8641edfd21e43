"""Bound modules of Flax linen in torch."""

import copy
import pickle

import numpy as np
import pytest

from bridge import ArgumentError, jax2torch, to_jax, to_torch

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
linen = pytest.importorskip("flax.linen")
optax = pytest.importorskip("optax")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
Y = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")
KEY = jax.random.key(3)


def tensor(x):
    return torch.tensor(np.asarray(x))


class Net(linen.Module):
    rate: float = 0.5

    @linen.compact
    def __call__(self, x, train: bool):
        x = jax.numpy.tanh(linen.Dense(4)(x))
        x = linen.BatchNorm(use_running_average=not train, momentum=0.8)(x)
        self.sow("intermediates", "features", x)
        return linen.Dropout(self.rate, deterministic=not train)(x)


def bind(module, *args, **kwargs):
    return module.bind(module.init({"params": KEY, "dropout": KEY}, X, *args, **kwargs))


def test_names_and_kinds():
    layer = jax2torch(bind(Net(), train=True))
    assert [name for name, _ in layer.named_parameters()] == [
        *("BatchNorm_0.bias", "BatchNorm_0.scale", "Dense_0.bias", "Dense_0.kernel")
    ]
    assert {name for name, _ in layer.named_buffers()} == {
        *("batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var")  # nothing that was sown
    }
    assert repr(layer).startswith("jax2torch(Net")


def test_steps_of_an_optimizer_equal_those_of_optax():
    net = Net(rate=0.0)
    variables = net.init(KEY, X, train=False)
    layer = jax2torch(net.bind(variables))
    ours, theirs = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9), optax.sgd(0.1, 0.9)
    params, stats = variables["params"], variables["batch_stats"]
    state = theirs.init(params)

    @jax.jit
    def step(params, stats, state):
        def objective(params):
            variables = {"params": params, "batch_stats": stats}
            output, new = net.apply(variables, X, train=True, mutable=["batch_stats"])
            return ((output - Y) ** 2).mean(), new["batch_stats"]

        gradients, stats = jax.grad(objective, has_aux=True)(params)
        updates, state = theirs.update(gradients, state, params)
        return optax.apply_updates(params, updates), stats, state

    for _ in range(3):
        ours.zero_grad()
        ((layer(tensor(X)) - tensor(Y)) ** 2).mean().backward()
        ours.step()
        params, stats, state = step(params, stats, state)
    back = to_jax(layer)
    for found, true in zip(
        jax.tree.leaves(back.variables),
        jax.tree.leaves({"params": params, "batch_stats": stats}),
        strict=True,
    ):
        np.testing.assert_allclose(found, true, rtol=1e-4, atol=1e-6)
    assert isinstance(back, Net)
    evaluated = net.apply(back.variables, X, train=False)
    np.testing.assert_allclose(layer.eval()(tensor(X)).detach(), evaluated, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layer(tensor(X)), layer(tensor(X), train=False))


def test_dropout_is_that_of_flax_for_the_same_key():
    net = Net()
    bound = bind(net, train=False)
    layer = jax2torch(bound)
    found = layer(tensor(X), rng=to_torch(jax.random.key_data(KEY)))
    expected, new = net.apply(
        bound.variables, X, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-6)
    mean = new["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(layer.get_buffer("batch_stats.BatchNorm_0.mean"), mean, rtol=1e-5)
    state = torch.get_rng_state()
    layer.eval()(tensor(X))
    assert (torch.get_rng_state() == state).all()  # in evaluation nothing draws
    torch.manual_seed(1)
    first = layer.train()(tensor(X))
    assert (first != layer(tensor(X))).any()
    torch.manual_seed(1)
    torch.testing.assert_close(layer(tensor(X)), first)


def test_streams():
    class Noise(linen.Module):
        @linen.compact
        def __call__(self, x):
            names = ("noise", "noise", "other", "dropout", "bound")
            draws = [jax.random.normal(self.make_rng(name), (2,)) for name in names]
            return *draws, self.has_rng("dropout"), self.has_rng("bound")

    layer = jax2torch(Noise().bind({}, rngs={"bound": KEY}))
    *draws, has_dropout, has_bound = layer(tensor(X))
    assert len(torch.stack(draws).unique()) == 10
    assert has_dropout
    assert has_bound
    *draws, has_dropout, _ = layer.eval()(tensor(X))
    assert len(torch.stack(draws).unique()) == 10
    assert not has_dropout  # which some modules take for the mode


class Flagged(linen.Module):
    train: bool = True

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=not self.train)(linen.Dense(4)(x))
        return linen.Dropout(0.5, deterministic=not self.train)(x)


def test_modes_that_are_attributes():
    layer = jax2torch(bind(Flagged()))
    assert (layer(tensor(X)) == 0).any()
    assert (layer.eval()(tensor(X)) != 0).all()
    assert not to_jax(layer).train
    assert not jax2torch(bind(Flagged(train=False))).training
    dropout = jax2torch(linen.Dropout(0.5, deterministic=False).bind({}))
    assert (dropout(tensor(X)) == 0).any()
    assert (dropout.eval()(tensor(X)) == tensor(X)).all()


def test_modes_that_are_attributes_of_parts():
    shared = linen.Dense(3)
    net = linen.Sequential(
        [
            shared,
            linen.Dropout(0.5, deterministic=False),
            {"norm": linen.BatchNorm(use_running_average=True)}["norm"],
            shared,
        ]
    )
    bound = bind(net)
    layer = jax2torch(bound)
    names = {name for name, _ in layer.named_parameters()}
    assert names == {f"layers_{i}.{k}" for i in (0,) for k in ("bias", "kernel")} | {
        *("layers_2.bias", "layers_2.scale")
    }
    assert layer.layers_1.training
    assert not layer.layers_2.training
    layer.layers_1.eval()
    mean = layer.get_buffer("batch_stats.layers_2.mean")
    before = mean.clone()
    np.testing.assert_allclose(
        layer(tensor(X)).detach(),
        bind(
            linen.Sequential([shared, linen.BatchNorm(use_running_average=True, name="b"), shared])
        )(X),
        rtol=1e-4,
        atol=1e-5,
    )
    layer.layers_2.train()
    layer(tensor(X))
    assert (mean != before).any()


class Coder(linen.Module):
    def setup(self):
        self.encoder, self.decoder = linen.Dense(4), linen.Dense(3)

    def __call__(self, x):
        return self.decoder(self.encode(x))

    def encode(self, x, *, scale=1.0):
        return scale * self.encoder(x)


def test_methods():
    bound, x = bind(Coder()), tensor(X)
    layer, expected = jax2torch(bound), bound.encode(X, scale=2.0)
    for found in (
        layer(x, method="encode", scale=2.0),
        jax2torch(bound, method="encode")(x, scale=2.0),
        jax2torch(bound, method=Coder.encode)(x, scale=2.0),
        jax2torch(bound, method=lambda net, x: net.encode(x, scale=2.0))(x),
        2 * jax2torch(bound.encoder)(x),
    ):
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer(x).detach(), bound(X), rtol=1e-5, atol=1e-6)
    assert [name for name, _ in jax2torch(bound.encoder).named_parameters()] == ["bias", "kernel"]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(way):
    layer = jax2torch(bind(Net(), train=False)).eval()
    twin = way(layer)
    torch.testing.assert_close(twin(tensor(X)), layer(tensor(X)))
    assert twin.Dense_0.kernel is not layer.Dense_0.kernel


def test_variables_without_values_and_in_boxes():
    class Boxed(linen.Module):
        @linen.compact
        def __call__(self, x):
            init = linen.with_partitioning(linen.initializers.lecun_normal(), ("a", "b"))
            return linen.Dense(4, kernel_init=init)(x)

    net = Boxed()
    layer = jax2torch(net.bind(jax.eval_shape(net.init, KEY, X)))
    assert [name for name, _ in layer.named_parameters()] == ["Dense_0.bias", "Dense_0.kernel"]
    assert {x.device.type for x in layer.parameters()} == {"meta"}
    bound = net.bind(net.init(KEY, X))
    layer.to_empty(device="cpu").load_state_dict(jax2torch(bound).state_dict())
    np.testing.assert_allclose(layer(tensor(X)).detach(), bound(X), rtol=1e-5, atol=1e-6)
    box = to_jax(layer).variables["params"]["Dense_0"]["kernel"]
    assert box.names == ("a", "b")


def test_kinds_of_modules():
    class Block(linen.Module):
        train: bool

        @linen.compact
        def __call__(self, x, _=None):
            return linen.Dropout(0.5, deterministic=not self.train)(linen.Dense(3)(x)), None

    class Lifted(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            x, _ = linen.jit(Block)(train)(linen.remat(Block)(train)(x)[0])
            axes, rngs = {"params": 0}, {"params": True, "dropout": True}
            stack = linen.scan(Block, variable_axes=axes, split_rngs=rngs, length=2)
            return stack(train)(x, None)[0]

    bound = bind(Lifted(), train=False)
    layer = jax2torch(bound)
    assert layer.get_parameter("ScanBlock_0.Dense_0.kernel").shape == (2, 3, 3)
    assert (layer(tensor(X)) == 0).any()
    state = torch.get_rng_state()
    (layer.eval()(tensor(X)) ** 2).sum().backward()
    assert (torch.get_rng_state() == state).all()
    objective = lambda v: (Lifted().apply(v, X, train=False) ** 2).sum()
    gradients = jax.jit(jax.grad(objective))(bound.variables)["params"]
    found = layer.get_parameter("ScanBlock_0.Dense_0.kernel").grad
    expected = gradients["ScanBlock_0"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


class Counting(linen.Module):
    """Counts calls in a collection of its own, and makes more variables if it is told to."""

    more: bool = False

    @linen.compact
    def __call__(self, x):
        count = self.variable("counts", "calls", lambda: 0)
        if self.more:
            self.sow("counts", "inputs", x)
        scale = self.param("numbers", lambda _: jax.numpy.arange(3))
        if not self.is_initializing():
            count.value += 1
        return x * scale


def test_other_collections_are_state():
    net = Counting()
    layer = jax2torch(bind(net))
    assert {name for name, _ in layer.named_buffers()} == {"counts.calls", "numbers"}
    for _ in range(2):
        layer(tensor(X))
    assert to_jax(layer).variables["counts"]["calls"] == 2
    with pytest.raises(ArgumentError, match=r'"counts" is immutable\. In evaluation a call sto'):
        layer.eval()(tensor(X))


def test_refusals():
    with pytest.raises(ArgumentError, match=r"Net is a module .* `net.bind\(variables\)`"):
        jax2torch(Net())
    bound = bind(Counting())
    with pytest.raises(ArgumentError, match=r"makes 'counts.inputs.0' in a call.*what is sown"):
        jax2torch(Counting(more=True).bind(bound.variables))(tensor(X))
    keyed = Counting().bind({**bound.variables, "keys": {"a": KEY}})
    with pytest.raises(ArgumentError, match=r"'keys.a' of Counting is a key of random numbers"):
        jax2torch(keyed)
