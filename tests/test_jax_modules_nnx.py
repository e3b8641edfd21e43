"""Modules of Flax nnx in torch: names, values, gradients, steps, modes and the way back."""

import copy
import pickle

import numpy as np
import pytest

from bridge import ArgumentError, jax2torch, to_jax

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
Y = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")


class Net(nnx.Module):
    """A model with everything: a list of parts, statistics, dropout, an array and a counter."""

    def __init__(self, seed=0, rate=0.5):
        rngs = nnx.Rngs(seed)
        self.stem = nnx.Linear(3, 4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, momentum=0.8, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.mask = jax.numpy.array([1.0, -2.0, 0.5, 3.0])
        self.calls = nnx.Variable(jax.numpy.array(0))

    def __call__(self, x):
        self.calls[...] += 1
        x = self.stem(x)
        for layer in self.layers:
            x = jax.numpy.tanh(layer(x))
        return self.dropout(self.norm(x)) * self.mask

    def encode(self, x, *, scale=1.0):
        return scale * self.stem(x)


def tensor(x):
    return torch.tensor(np.asarray(x))


def test_names_and_kinds():
    layer = jax2torch(Net())
    assert [name for name, _ in layer.named_parameters()] == [
        *("layers.0.bias", "layers.0.kernel", "layers.1.bias", "layers.1.kernel"),
        *("norm.bias", "norm.scale", "stem.bias", "stem.kernel"),
    ]
    dtypes = {name: x.dtype for name, x in layer.named_buffers()}
    floats = dict.fromkeys(["mask", "norm.mean", "norm.var"], torch.float32)
    assert dtypes == {"calls": torch.int32, **floats}  # no state of random numbers
    layer.get_submodule("layers.0").requires_grad_(False)
    assert not layer.get_parameter("layers.0.kernel").requires_grad
    assert repr(layer).startswith("jax2torch(Net")


def test_steps_of_an_optimizer_equal_those_of_flax():
    net = Net(rate=0.0)
    layer = jax2torch(net)
    ours = torch.optim.Adam(layer.parameters(), lr=0.1)
    theirs = nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param)
    step = nnx.jit(nnx.value_and_grad(lambda net: ((net(X) - Y) ** 2).mean()))
    for _ in range(3):
        ours.zero_grad()
        loss = ((layer(tensor(X)) - tensor(Y)) ** 2).mean()
        loss.backward()
        ours.step()
        expected, gradients = step(net)
        theirs.update(net, gradients)
        np.testing.assert_allclose(loss.detach(), expected, rtol=1e-4)
    back = to_jax(layer)
    for (path, found), (_, true) in zip(
        nnx.to_flat_state(nnx.state(back, nnx.Not(nnx.RngState))),
        nnx.to_flat_state(nnx.state(net, nnx.Not(nnx.RngState))),
        strict=True,
    ):
        np.testing.assert_allclose(found, true, rtol=1e-3, atol=1e-5, err_msg=str(path))
    assert layer.calls == 3


def test_a_shared_variable_is_one_parameter_with_the_sum_of_gradients():
    class Tied(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first, self.second = nnx.Linear(3, 3, rngs=rngs), nnx.Linear(3, 3, rngs=rngs)
            self.second.kernel = self.first.kernel
            self.again = self.first
            self.equal = nnx.Param(self.first.kernel[...])

        def __call__(self, x):
            return self.second(jax.numpy.tanh(self.again(x))) @ self.equal[...]

    net = Tied()
    layer = jax2torch(net)
    names = {name for name, _ in layer.named_parameters()}
    assert len(names) == 4  # `again` is `first`, and the kernel is shared; equal arrays are two
    (layer(tensor(X)) ** 2).sum().backward()
    gradients = nnx.grad(lambda net: (net(X) ** 2).sum())(net)
    for path, gradient in nnx.to_flat_state(gradients):
        found = layer.get_parameter(".".join(path)).grad
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)
    back = to_jax(layer)
    assert back.again is back.first
    assert back.second.kernel is back.first.kernel


def test_modes_part_by_part():
    net = Net()
    net.dropout.eval()
    layer = jax2torch(net)
    assert layer.training
    assert not layer.dropout.training
    layer(tensor(X))
    assert (layer(tensor(X)) != 0).all()
    mean = layer.norm.mean.clone()
    layer.norm.eval()
    layer.dropout.train()
    assert (layer(tensor(X)) == 0).any()
    assert (layer.norm.mean == mean).all()
    back = to_jax(layer)
    assert back.norm.use_running_average
    assert not back.dropout.deterministic


def test_a_module_that_comes_in_evaluation_is_in_evaluation():
    net = Net()
    net.eval()
    layer = jax2torch(net)
    assert not any(part.training for part in layer.modules())
    np.testing.assert_allclose(layer(tensor(X)).detach(), net(X), rtol=1e-5)
    assert layer.calls == 1  # it counts in evaluation too
    assert net.calls[...] == 1


def test_a_mode_in_the_call_leaves_that_of_parts_alone():
    class Passing(nnx.Module):
        def __init__(self):
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x, deterministic=None):
            return self.dropout(x, deterministic=deterministic)

    layer = jax2torch(Passing())
    layer.dropout.eval()
    assert (layer(tensor(X)) == tensor(X)).all()
    assert (layer(tensor(X), deterministic=False) == 0).any()


def test_own_modes_are_those_of_the_module():
    class Own(nnx.Module):
        def __init__(self):
            self.inner = Net()
            self.way = "plain"

        def train(self, **attributes):
            super().train(**attributes)
            self.way = "plain"

        def eval(self, **attributes):
            super().eval(**attributes)
            self.way = "double"

        def __call__(self, x):
            return self.inner.encode(x) * (2 if self.way == "double" else 1)

    net, x = Own(), tensor(X)
    layer = jax2torch(net)
    once = layer(x)
    np.testing.assert_allclose(layer.eval()(x).detach(), 2 * once.detach(), rtol=1e-6)
    np.testing.assert_allclose(to_jax(layer)(X), 2 * once.detach(), rtol=1e-5)
    net.eval()
    assert not jax2torch(net).training


def test_attention_whose_mode_is_left_to_the_call():
    net = nnx.MultiHeadAttention(2, 4, 8, dropout_rate=0.5, decode=False, rngs=nnx.Rngs(0))
    layer, x = jax2torch(net), np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    assert (layer(tensor(x)) != layer(tensor(x))).any()
    np.testing.assert_allclose(
        layer.eval()(tensor(x)).detach(), net(x, deterministic=True), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("way", ["option", "call", "function"])
def test_methods(way):
    net = Net()
    method = {"function": lambda net, x, *, scale: net.encode(x, scale=scale)}.get(way, "encode")
    layer = jax2torch(net) if way == "call" else jax2torch(net, method=method)
    options = {"method": "encode"} if way == "call" else {}
    found = layer(tensor(X), scale=2.0, **options)
    np.testing.assert_allclose(found.detach(), net.encode(X, scale=2.0), rtol=1e-5)


def test_a_module_without_a_call():
    class Coder(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))

        def encode(self, x):
            return self.layer(x)

    layer = jax2torch(Coder())
    assert layer(tensor(X), method="encode").shape == (5, 4)
    with pytest.raises(ArgumentError, match=r"Coder has no `__call__`\. Name the method to call"):
        layer(tensor(X))
    with pytest.raises(ArgumentError, match="Coder has no method 'decode'"):
        layer(tensor(X), method="decode")


def test_what_comes_back_is_a_copy():
    layer = jax2torch(Net())
    with torch.no_grad():
        layer.stem.kernel.fill_(7)
    back = to_jax({"a": layer})["a"]
    with torch.no_grad():
        layer.stem.kernel.fill_(8)
    assert type(back) is Net
    assert (back.stem.kernel[...] == 7).all()
    back(X)  # its random numbers too are there
    assert back.dropout.rngs.count[...] == 1


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(way):
    layer = jax2torch(Net()).eval()
    twin = way(layer)
    torch.testing.assert_close(twin(tensor(X)), layer(tensor(X)))
    with torch.no_grad():
        twin.stem.kernel.zero_()
    assert (layer.stem.kernel != 0).any()


def test_a_pickled_program_has_no_values():
    net = nnx.Linear(100, 100, rngs=nnx.Rngs(0))
    layer = jax2torch(net)
    assert len(pickle.dumps(layer._pure)) < 10_000
    assert len(pickle.dumps(layer)) > 40_000


def test_a_module_without_values():
    class Small(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.dropout(self.norm(x))

    layer = jax2torch(nnx.eval_shape(Small))
    assert {x.device.type for x in (*layer.parameters(), *layer.buffers())} == {"meta"}
    layer.to_empty(device="cpu").load_state_dict(jax2torch(Small()).state_dict())
    net = Small()
    net.eval()
    np.testing.assert_allclose(layer.eval()(tensor(X)).detach(), net(X), rtol=1e-5)
    assert (to_jax(layer.train())(X) == 0).any()  # random numbers it has


def test_one_trace_for_each_mode_and_shape():
    traces = []

    class Counting(nnx.Module):
        def __init__(self):
            self.inner = Net()

        def __call__(self, x):
            traces.append(x.shape)
            return self.inner(x)

    layer = jax2torch(Counting())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(4):
        (layer(tensor(X)) ** 2).sum().backward()
        optimizer.step()
    layer.load_state_dict(layer.state_dict())
    copy.deepcopy(layer)(tensor(X))
    in_training = len(traces)
    layer.eval()
    for _ in range(3):
        layer(tensor(X))
    assert in_training == 1
    assert len(traces) == in_training + 1
    layer(tensor(X[:2]))
    assert len(traces) == in_training + 2


def test_kinds_of_modules():
    rngs, x = nnx.Rngs(0), np.random.default_rng(0).normal(size=(2, 6, 3)).astype("float32")
    for net in (
        nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.LayerNorm(4, rngs=rngs)),
        nnx.LoRALinear(3, 4, lora_rank=2, rngs=rngs),
        nnx.RNN(nnx.LSTMCell(3, 2, rngs=rngs)),
        nnx.bridge.ToNNX(pytest.importorskip("flax.linen").Dense(4), rngs=rngs).lazy_init(x),
    ):
        layer = jax2torch(net)
        (layer(tensor(x)) ** 2).sum().backward()
        gradients = nnx.jit(nnx.grad(lambda net: (net(x) ** 2).sum()))(net)
        assert len([*layer.parameters()]) == len(nnx.to_flat_state(gradients))
        for path, gradient in nnx.to_flat_state(gradients):
            name = ".".join(map(str, path)).replace(".if.", ".if_.")
            found = layer.get_parameter(name).grad
            np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-4, err_msg=name)


def test_layers_that_are_stacked_for_a_scan():
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return nnx.Sequential(
            nnx.Linear(3, 3, rngs=rngs),
            nnx.BatchNorm(3, rngs=rngs),
            nnx.Dropout(0.5, rngs=rngs),
        )

    class Stack(nnx.Module):
        def __init__(self):
            self.blocks = make(nnx.Rngs(0))

        def __call__(self, x):
            scan = nnx.scan(lambda x, block: block(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            return scan(x, self.blocks)

    net = Stack()
    net.blocks.layers[2].eval()
    layer = jax2torch(net)
    assert layer.get_parameter("blocks.layers.0.kernel").shape == (3, 3, 3)
    state = torch.get_rng_state()
    found = layer(tensor(X))
    assert (torch.get_rng_state() == state).all()  # a scan passes keys on that nothing draws from
    np.testing.assert_allclose(found.detach(), net(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        layer.get_buffer("blocks.layers.1.mean"), net.blocks.layers[1].mean[...], rtol=1e-4
    )
    layer.train()
    assert (layer(tensor(X)) == 0).any()
