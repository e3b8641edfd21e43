"""Modules of MLX as pure functions: parameters, buffers and modes."""

import functools

import numpy as np
import pytest

import bridge
from bridge import mlx2jax, mlx2torch

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
torch = pytest.importorskip("torch")

X = torch.linspace(-1, 2, 12).reshape(4, 3)


def model():
    mx.random.seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm(5), nn.Tanh(), nn.Linear(5, 2))


def native(params, x):
    """The same in torch, with batch statistics."""
    named = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    weight = lambda layer: (named[f"layers.{layer}.weight"], named[f"layers.{layer}.bias"])
    y = torch.nn.functional.linear(x, *weight(0))
    y = torch.nn.functional.batch_norm(y, None, None, *weight(1), training=True)
    return torch.nn.functional.linear(y.tanh(), *weight(3)), named


def test_parameters_are_what_is_trained_and_buffers_the_rest():
    layer = mlx2torch(model())
    assert isinstance(layer, torch.nn.Module)
    names = [name for name, _ in layer.named_parameters()]
    assert {*names} == {f"layers.{i}.{n}" for i in (0, 1, 3) for n in ("weight", "bias")}
    buffers = [name for name, _ in layer.named_buffers()]
    assert {*buffers} == {"layers.1.running_mean", "layers.1.running_var"}
    assert {*layer.state_dict()} == {*names, *buffers}


def test_frozen_parameters_are_buffers():
    module = model()
    module.layers[0].freeze()
    layer = mlx2torch(module)
    assert "layers.0.weight" in dict(layer.named_buffers())
    assert "layers.0.weight" not in dict(layer.named_parameters())


def test_gradients_equal_native():
    layer = mlx2torch(model())
    output = layer(X)
    expected, named = native(dict(layer.named_parameters()), X)
    torch.testing.assert_close(output, expected)
    (output * output).sum().backward()
    (expected * expected).sum().backward()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, named[name].grad, rtol=1e-4, atol=1e-5)


def test_running_statistics_are_written_and_the_module_keeps_its_own():
    module = model()
    layer = mlx2torch(module)
    mean = layer.get_buffer("layers.1.running_mean")
    layer(X)
    layer(X)
    twin = model()
    for _ in range(2):
        twin(mx.array(X.numpy()))
    np.testing.assert_allclose(mean.numpy(), np.array(twin.layers[1].running_mean), rtol=1e-5)
    assert layer.get_buffer("layers.1.running_mean") is mean
    assert module.layers[1].running_mean.tolist() == [0.0] * 5


def test_modes_are_those_of_the_layer_part_by_part():
    module = model()
    layer = mlx2torch(module)
    layer.get_submodule("layers.1").eval()
    layer(X)
    mean = layer.get_buffer("layers.1.running_mean")
    assert mean.tolist() == [0.0] * 5
    layer.train()
    layer(X)
    assert mean.abs().sum() > 0
    before = mean.clone()
    layer.eval()
    output = layer(X)
    assert mean.equal(before)
    expected = bridge.to_mlx(layer)(mx.array(X.numpy()))
    np.testing.assert_allclose(output.detach().numpy(), np.array(expected), rtol=1e-5, atol=1e-6)
    assert module.training
    assert module.layers[1].training


def test_a_module_comes_in_the_modes_that_it_has():
    module = model()
    module.layers[1].eval()
    layer = mlx2torch(module)
    assert layer.training
    assert not layer.get_submodule("layers.1").training
    assert not mlx2torch(model().eval()).training


def test_an_optimizer_of_torch_leaves_the_module_alone():
    module = model()
    before = module.layers[0].weight.tolist()
    layer = mlx2torch(module)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1)
    assert module.layers[0].weight.tolist() == before


def test_an_error_leaves_the_module_as_it_was():
    module = model()
    before = module.layers[0].weight
    layer = mlx2torch(module)
    with pytest.raises(ValueError, match="shape"):
        layer(torch.ones(4, 7))
    assert module.layers[0].weight is before
    assert layer.get_buffer("layers.1.running_mean").tolist() == [0.0] * 5


def test_in_jax_with_dropout():
    jax = pytest.importorskip("jax")
    bridged = mlx2jax(nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)))
    x = jax.numpy.asarray(X.numpy())

    @jax.jit
    def outputs(params, key):
        return bridged.apply(params, bridged.buffers, x, rng=key)[0]

    key = jax.random.key(3)
    found, pull = jax.vjp(lambda params: outputs(params, key), bridged.params)
    mask = np.asarray(found) != 0
    assert 0.2 < mask.mean() < 0.8
    np.testing.assert_array_equal(found, outputs(bridged.params, key))
    (gradient,) = pull(jax.numpy.ones_like(found))
    np.testing.assert_allclose(gradient["layers.0.bias"], 2 * mask.sum(0), rtol=1e-6)


def test_a_module_as_an_argument_is_a_tree():
    module = model().eval()
    x = X.clone().requires_grad_()
    found = mlx2torch(lambda module, x: module(x))(bridge.to_torch(module), x)
    expected = module(mx.array(X.numpy()))
    np.testing.assert_allclose(found.detach().numpy(), np.array(expected), rtol=1e-5, atol=1e-6)


def test_static_arguments_of_a_module_are_refused():
    with pytest.raises(bridge.OptionError, match="no static_argnums="):
        mlx2torch(model(), static_argnums=1)


NAMED = {
    "by a closure": lambda net: lambda x: net(x),
    "as an argument": lambda net: functools.partial(lambda net, x: net(x), net),
    "within a function": lambda net: lambda x: (lambda y: net(y) * 2)(x),
}


@pytest.mark.parametrize("named", NAMED)
def test_a_captured_module_that_changes_is_refused_and_left_alone(named):
    net = model()
    with pytest.raises(bridge.ArgumentError, match=r"changes arrays in it, in BatchNorm.*Pass"):
        mlx2torch(NAMED[named](net))(X)
    assert net.layers[1].running_mean.tolist() == [0] * 5
    net.eval()
    x = X.clone().requires_grad_()
    mlx2torch(NAMED[named](net))(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert net.layers[1].running_var.tolist() == [1] * 5


def test_what_a_module_notes_is_of_calls_alone():
    class Notes(nn.Linear):
        def __call__(self, x):
            self.calls = [*getattr(self, "calls", []), x.shape]
            return super().__call__(x)

    net = Notes(3, 2)
    bridged = mlx2torch(lambda x: net(x))
    bridged(X)
    bridged(X)
    assert net.calls == [(4, 3)] * 2


WRONG = {
    "one that lacks": (lambda net: {"layers.0.weight": net.params["layers.0.weight"]}, "lacks"),
    "buffers": (lambda net: net.buffers, "lacks .* has an unknown layers.1.running_mean"),
    "one that is unknown": (lambda net: {**net.params, "w": X.numpy()}, "has an unknown w"),
    "a list": (lambda net: [*net.params.values()], "is a list.*dict like `net.params`"),
    "an array": (lambda net: X.numpy(), "is an array.*dict like `net.params`"),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_wrong_parameters(make, text):
    """The module's own stood in for those that were missing, and nothing trained them."""
    pytest.importorskip("jax")
    net = mlx2jax(model())
    with pytest.raises(bridge.ArgumentError, match=rf"argument `params` of Sequential {text}"):
        net.apply(make(net), net.buffers, X.numpy())


def test_missing_buffers():
    pytest.importorskip("jax")
    net = mlx2jax(model())
    with pytest.raises(
        bridge.ArgumentError, match=r"argument `buffers` of Sequential lacks layers"
    ):
        net.apply(net.params, {}, X.numpy())


class Counting(nn.Module):
    """A layer that counts its calls in 64 bits."""

    def __init__(self, count):
        super().__init__()
        self.count = mx.array(count, mx.int64)
        self.freeze()

    def __call__(self, x):
        assert self.count.dtype == mx.int64
        self.count = self.count + 1
        return x * self.count


def test_buffers_of_64_bits_have_32_in_jax_and_64_in_torch():
    jax = pytest.importorskip("jax")
    net = mlx2jax(Counting(3))
    output, buffers = jax.jit(lambda buffers, x: net.apply({}, buffers, x))(net.buffers, X.numpy())
    np.testing.assert_allclose(output, 4 * X, rtol=1e-6)
    assert (buffers["count"], buffers["count"].dtype) == (4, np.int32)
    layer = mlx2torch(Counting(2**40))
    layer(X)
    assert (layer.count.item(), layer.count.dtype) == (2**40 + 1, torch.int64)
    assert bridge.to_mlx(layer).count.dtype == mx.int64
    with pytest.raises(bridge.RangeError, match=r"buffer count is int64\[\], with values that"):
        mlx2jax(Counting(2**40))
