"""Modules of Flax nnx in torch: state, random numbers, transformations inside, and refusals."""

import pickle
import warnings

import numpy as np
import pytest

from bridge import ArgumentError, jax2mlx, jax2torch, to_jax

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
nnx = pytest.importorskip("flax.nnx")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")


def tensor(x):
    return torch.tensor(np.asarray(x))


class Holding(nnx.Module):
    def __init__(self):
        self.total, self.weight = nnx.Intermediate(jax.numpy.zeros(3)), nnx.Param(jax.numpy.ones(3))

    def __call__(self, x):
        self.total[...] += x.sum(0)
        return self.total[...] * self.weight[...]


class Outer(nnx.Module):
    def __init__(self):
        self.inner = Holding()

    def __call__(self, x):
        return self.inner(x)


class Block(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


TRANSFORMED = {
    "jit": lambda block, x: nnx.jit(lambda block, x: block(x))(block, x),
    "remat": lambda block, x: nnx.remat(lambda block, x: block(x))(block, x),
    "cond": lambda block, x: nnx.cond(
        x.sum() > -1e9, lambda block, x: block(x), lambda block, x: x, block, x
    ),
    "grad": lambda block, x: nnx.grad(lambda b, x: (b(x) ** 2).sum(), argnums=1)(block, x),
    "split and merge": lambda block, x: nnx.merge(*nnx.split(block))(x),
}


@pytest.mark.parametrize("way", TRANSFORMED)
def test_transformations_in_a_module(way):
    """They replace all variables that they are passed, most of them by equal ones."""

    class Net(nnx.Module):
        def __init__(self):
            self.block = Block()

        def __call__(self, x):
            return TRANSFORMED[way](self.block, x)

    net = Net()
    net.block.dropout.eval()
    layer = jax2torch(net)
    state = torch.get_rng_state()
    (layer(tensor(X)) ** 2).sum().backward()
    assert (torch.get_rng_state() == state).all()  # nothing draws
    gradients = nnx.grad(lambda net: (net(X) ** 2).sum())(net)
    np.testing.assert_allclose(
        layer.block.linear.kernel.grad, gradients.block.linear.kernel[...], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(layer.block.norm.mean, net.block.norm.mean[...], rtol=1e-4)
    layer.train()
    layer(tensor(X))
    assert (torch.get_rng_state() != state).any()


def test_numbers_trees_and_names_in_variables():
    class Net(nnx.Module):
        def __init__(self):
            self.count, self.label = nnx.Variable(0), nnx.Variable("label")
            self.weights = nnx.Param({"a": jax.numpy.ones(3), "b": (jax.numpy.ones(3), 2.0)})
            self.numbers = nnx.Param(jax.numpy.arange(3))

        def __call__(self, x):
            self.count.set_value(self.count.get_value() + 1)
            weights = self.weights.get_value()
            return x * weights["a"] + weights["b"][0] * weights["b"][1] + self.numbers[...]

    layer = jax2torch(Net())
    assert [n for n, _ in layer.named_parameters()] == ["weights.a", "weights.b.0", "weights.b.1"]
    assert {n for n, _ in layer.named_buffers()} == {"count", "numbers"}
    np.testing.assert_allclose(layer(tensor(X)).detach(), Net()(X))
    assert layer.count == 1
    assert to_jax(layer).label.get_value() == "label"


def test_what_is_sown_is_no_state():
    class Sowing(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            y = self.linear(x)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                self.sow(nnx.Intermediate, "features", y)
            return y

    net = Sowing()
    net(X)
    layer = jax2torch(net)
    assert not [*layer.buffers()]
    for _ in range(2):
        np.testing.assert_allclose(layer(tensor(X)).detach(), net(X), rtol=1e-5)
    assert not hasattr(to_jax(layer), "features")


@pytest.mark.parametrize("bridge", [jax2torch, jax2mlx])
def test_intermediates_that_a_call_reads_are_refused_by_name(bridge):
    to = tensor if bridge is jax2torch else pytest.importorskip("mlx.core").array
    layer = bridge(Outer())
    for module in (layer, pickle.loads(pickle.dumps(layer))):
        with pytest.raises(
            ArgumentError, match=r"Outer reads its 'total' .*self\.total = nnx\.Cache"
        ):
            module(to(X))


def test_metrics_are_buffers():
    class Measured(nnx.Module):
        def __init__(self):
            self.metrics = nnx.MultiMetric(loss=nnx.metrics.Average("loss"))

        def __call__(self, x):
            self.metrics.update(loss=x.sum())
            return x

    net = Measured()
    layer = jax2torch(net)
    for _ in range(2):
        net(X)
        layer(tensor(X))
    np.testing.assert_allclose(layer.metrics.loss.total, net.metrics.loss.total[...], rtol=1e-5)
    np.testing.assert_allclose(to_jax(layer).metrics.compute()["loss"], X.sum(), rtol=1e-5)


def test_a_cache_moves_on_in_every_mode():
    net = nnx.MultiHeadAttention(2, 4, 8, decode=True, rngs=nnx.Rngs(0))
    net.init_cache((1, 3, 4))
    layer = jax2torch(net)
    tokens = np.random.default_rng(0).normal(size=(3, 1, 1, 4)).astype("float32")
    for token, mode in zip(tokens, (True, False, False), strict=True):
        output = layer.train(mode)(tensor(token)).detach()
        np.testing.assert_allclose(output, net(token), rtol=1e-4, atol=1e-5)
    assert layer.cache_index == 3


def test_random_numbers_follow_from_the_generator_of_torch_or_a_key():
    class Noise(nnx.Module):
        def __init__(self):
            self.rngs = nnx.Rngs(first=0, second=0)

        def __call__(self, x):
            draws = [self.rngs.first.normal((2,)), self.rngs.second.normal((2,))]
            return x, *draws, self.rngs.first.normal((2,))

    layer = jax2torch(Noise())
    assert not layer.state_dict()
    torch.manual_seed(3)
    first, second = layer(tensor(X)), layer(tensor(X))
    draws = torch.stack([*first[1:], *second[1:]])
    assert len(draws.unique()) == draws.numel()  # of streams, draws and calls
    torch.manual_seed(3)
    torch.testing.assert_close(layer.eval()(tensor(X)), first)
    key = torch.tensor([1, 2])
    state = torch.get_rng_state()
    torch.testing.assert_close(layer(tensor(X), rng=key), layer(tensor(X), rng=key))
    assert (torch.get_rng_state() == state).all()


def test_dropout_that_gets_its_generator_by_the_call():
    layer = jax2torch(nnx.Dropout(0.5))
    zeros = (layer(torch.ones(40, 40)) == 0).float().mean()
    assert 0.4 < zeros < 0.6
    assert (layer.eval()(torch.ones(4)) == 1).all()


def test_keys_keep_their_kind():
    net = nnx.Dropout(0.5, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    layer = jax2torch(net)
    assert 0.4 < (layer(torch.ones(40, 40)) == 0).float().mean() < 0.6
    back = to_jax(layer)
    assert jax.random.key_impl(back.rngs.key[...]) == jax.random.key_impl(net.rngs.key[...])
    assert (back(jax.numpy.ones(100)) == net(jax.numpy.ones(100))).all()


def test_a_batch_in_evaluation_and_a_model_without_parameters():
    class Sine(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jax.numpy.sin(self.dropout(x))

    layer = jax2torch(Sine()).eval()
    assert not layer.state_dict()
    torch.testing.assert_close(torch.func.vmap(layer)(tensor(X)), tensor(X).sin())


class Lazy(nnx.Module):
    def __call__(self, x):
        if not hasattr(self, "w"):
            self.w = nnx.Param(jax.numpy.ones((x.shape[-1], 2)))
        return x @ self.w[...]


class Growing(nnx.Module):
    def __init__(self):
        self.mean = nnx.Variable(jax.numpy.zeros(3))

    def __call__(self, x):
        self.mean.set_value(x.sum()[None])
        return x


class Counting(nnx.Module):
    def __init__(self):
        self.count = nnx.Variable(0)

    def __call__(self, x):
        self.count.set_value(self.count.get_value() + 0.5)
        return x


class Keyed(nnx.Module):
    def __init__(self):
        self.key = nnx.Variable(jax.random.key(0))


class Reference(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jax.numpy.ones(3), ref=True)


REFUSED = {
    "a variable that a call makes": (Lazy, "Lazy makes 'w' in a call.*with an example before"),
    "another shape": (Growing, r"changes 'mean' from float32\[3\] to float32\[1\] in a call"),
    "another kind": (Counting, r"changes 'count' from int32\[\] to float32\[\] in a call"),
    "a key": (Keyed, "'key' of Keyed is a key of random numbers.*argument `key`"),
    "a reference": (Reference, "variable 'w' of Reference is a reference.*ref=False"),
    "a parameter that a call changes": (
        lambda: nnx.SpectralNorm(nnx.Linear(3, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0)),
        "SpectralNorm changes its parameter 'layer_instance.kernel' in a call",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(kind):
    make, text = REFUSED[kind]
    with pytest.raises(ArgumentError, match=text):
        jax2torch(make())(tensor(X))


def test_a_lazy_module_after_a_call():
    net = Lazy()
    net(X)
    layer = jax2torch(net)
    np.testing.assert_allclose(layer(tensor(X)).detach(), net(X), rtol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["w"]


def test_a_word_for_the_mode_in_the_call():
    class Net(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x, train):
            return self.dropout(x, deterministic=not train)

    layer = jax2torch(Net())
    assert (layer(tensor(X)) == 0).any()
    assert (layer(tensor(X), train=False) == tensor(X)).all()
    assert (layer.eval()(tensor(X)) == tensor(X)).all()
    assert (layer(tensor(X), True) == 0).any()


def test_two_variables_of_one_name_are_refused():
    class Net(nnx.Module):
        def __init__(self):
            w = jax.numpy.ones(3)
            self.tree = nnx.data({"a.b": nnx.Param(w), "a": {"b": nnx.Param(w)}})

    with pytest.raises(ArgumentError, match=r"two arrays of Net have the name 'tree.a.b'"):
        jax2torch(Net())


def test_double_precision():
    with jax.enable_x64(True):
        net = nnx.Linear(3, 4, param_dtype="float64", rngs=nnx.Rngs(0))
        expected = net(X.astype("float64"))
    layer = jax2torch(net)
    found = layer(tensor(X).double())
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-12)


def test_static_arguments_by_name_and_by_position():
    class Repeated(nnx.Module):
        def __init__(self):
            self.linear = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x, times):
            for _ in range(times):
                x = self.linear(x)
            return x

    net = Repeated()
    layer = jax2torch(net, static_argnames="times")
    for found in (layer(tensor(X), 2), layer(tensor(X), times=2)):
        np.testing.assert_allclose(found.detach(), net(X, 2), rtol=1e-4, atol=1e-6)
    with pytest.raises(jax.errors.TracerIntegerConversionError) as raised:
        jax2torch(net)(tensor(X), 2)
    assert any("static_argnames=['times']" in note for note in raised.value.__notes__)


class Initialized(nnx.Module):
    """A normalization that takes its mean from the first batch, and notes that in a flag."""

    def __init__(self):
        self.mean = nnx.BatchStat(jax.numpy.zeros(3))
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.initialized = False

    def __call__(self, x):
        self.initialized = True
        return x - self.mean[...]

    def name(self, x):
        self.last = "x"
        return x

    def change_mode(self, x):
        y = self.norm(x)
        self.norm.eval()
        return y


@pytest.mark.parametrize(
    ("method", "text"),
    {
        "__call__": "sets its attribute 'initialized' from False to True in a call",
        "name": "sets its attribute 'last' to 'x' in a call, which would be lost",
        "change_mode": "sets its attribute 'norm.use_running_average' from False to True",
    }.items(),
)
def test_attributes_that_a_call_changes_are_refused(method, text):
    with pytest.raises(ArgumentError, match=text):
        jax2torch(Initialized(), method=method)(tensor(X))


class Jitted(nnx.Module):
    """One whose variables are all replaced in a call, though none of them changes."""

    def __init__(self):
        self.weight, self.shift = (
            nnx.Param(jax.numpy.arange(3.0)),
            nnx.Variable(jax.numpy.arange(3.0) + 1),
        )
        self.order = nnx.Variable(jax.numpy.array([2, 0, 1]))

    @nnx.jit
    def __call__(self, x):
        return (x * self.weight + self.shift)[self.order[...]]


def test_buffers_that_do_not_change_are_not_written():
    layer = jax2torch(Jitted())
    versions = [buffer._version for buffer in layer.buffers()]
    examples = torch.tensor(np.random.default_rng(0).normal(size=(4, 3)).astype("float32"))
    batch = torch.func.vmap(layer)(examples)  # which could write to none
    np.testing.assert_allclose(
        batch.detach(), [Jitted()(jax.numpy.asarray(x.numpy())) for x in examples], rtol=1e-6
    )
    assert [buffer._version for buffer in layer.buffers()] == versions
