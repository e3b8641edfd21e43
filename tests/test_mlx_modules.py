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
    bridged = mlx2torch(model())
    assert {*bridged.params} == {f"layers.{i}.{n}" for i in (0, 1, 3) for n in ("weight", "bias")}
    assert {*bridged.buffers} == {"layers.1.running_mean", "layers.1.running_var"}


def test_frozen_parameters_are_buffers():
    module = model()
    module.layers[0].freeze()
    assert "layers.0.weight" in mlx2torch(module).buffers


def test_gradients_equal_native():
    bridged = mlx2torch(model())
    params = {name: p.requires_grad_() for name, p in bridged.params.items()}
    output, _ = bridged.apply(params, bridged.buffers, X)
    expected, named = native(params, X)
    torch.testing.assert_close(output, expected)
    (output * output).sum().backward()
    (expected * expected).sum().backward()
    for name, p in params.items():
        torch.testing.assert_close(p.grad, named[name].grad, rtol=1e-4, atol=1e-5)


def test_running_statistics_come_back_and_the_module_keeps_its_own():
    module = model()
    bridged = mlx2torch(module)
    _, buffers = bridged.apply(bridged.params, bridged.buffers, X)
    _, buffers = bridged.apply(bridged.params, buffers, X)
    twin = model()
    for _ in range(2):
        twin(mx.array(X.numpy()))
    found = buffers["layers.1.running_mean"].numpy()
    np.testing.assert_allclose(found, np.array(twin.layers[1].running_mean), rtol=1e-5)
    assert module.layers[1].running_mean.tolist() == [0.0] * 5


def test_the_mode_is_that_of_the_module_part_by_part():
    module = model()
    bridged = mlx2torch(module)
    module.layers[1].eval()
    _, buffers = bridged.apply(bridged.params, bridged.buffers, X)
    assert buffers["layers.1.running_mean"].tolist() == [0.0] * 5
    assert module.training
    assert not module.layers[1].training
    module.train()
    _, buffers = bridged.apply(bridged.params, bridged.buffers, X)
    assert buffers["layers.1.running_mean"].abs().sum() > 0


def test_an_optimizer_of_torch_leaves_the_module_alone():
    module = model()
    before = module.layers[0].weight.tolist()
    bridged = mlx2torch(module)
    with torch.no_grad():
        for p in bridged.params.values():
            p.add_(1)
    assert module.layers[0].weight.tolist() == before


def test_an_error_leaves_the_module_as_it_was():
    module = model()
    before = module.layers[0].weight
    bridged = mlx2torch(module)
    with pytest.raises(ValueError, match="shape"):
        bridged.apply(bridged.params, bridged.buffers, torch.ones(4, 7))
    assert module.layers[0].weight is before


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
    with pytest.raises(bridge.OptionError, match="a module has no static arguments"):
        mlx2torch(model(), static_argnums=1)


NAMED = {
    "by a closure": lambda net: lambda x: net(x),
    "as an argument": lambda net: functools.partial(lambda net, x: net(x), net),
    "within a function": lambda net: lambda x: (lambda y: net(y) * 2)(x),
}


@pytest.mark.parametrize("named", NAMED)
def test_a_captured_module_that_changes_is_refused_and_left_alone(named):
    net = model()
    with pytest.raises(bridge.ArgumentError, match=r"changes arrays in it, in BatchNorm.*apply"):
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
    "one that is unknown": (lambda net: {**net.params, "w": X}, "has an unknown w"),
    "a list": (lambda net: [*net.params.values()], "is a list.*dict like `net.params`"),
    "an array": (lambda net: X, "is an array.*dict like `net.params`"),
}


@pytest.mark.parametrize(("make", "text"), WRONG.values(), ids=WRONG)
def test_wrong_parameters(make, text):
    """The module's own stood in for those that were missing, and nothing trained them."""
    net = mlx2torch(model())
    with pytest.raises(bridge.ArgumentError, match=rf"argument `params` of Sequential {text}"):
        net.apply(make(net), net.buffers, X)


def test_missing_buffers():
    net = mlx2torch(model())
    with pytest.raises(
        bridge.ArgumentError, match=r"argument `buffers` of Sequential lacks layers"
    ):
        net.apply(net.params, {}, X)
