"""Buffers that torch writes to without recording it, from one call of a module to the next."""

import copy

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

from tests.torch_in_jax import MODES, modes  # noqa: E402

jnp = jax.numpy
nn = torch.nn

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(5, 3)).astype("float32")


class Learned(nn.Module):
    """A buffer that is computed with its gradient, and one that is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.3, 0.8]))
        self.register_buffer("state", torch.tensor([0.2, 0.7, -0.4]))
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        output = torch.tanh(x * self.weight + self.state) * (1 + self.last)
        self.state = (self.state * 0.5 + output.mean(0)) * self.weight
        with torch.no_grad():
            self.last = output[0] ** 2
        return output


MODULES = {
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()),
    "cumulative": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None)),
    "instance norm": lambda: nn.Sequential(
        nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.InstanceNorm1d(1, track_running_stats=True)
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)),
    "learned": Learned,
}


def twice(apply, x):
    return (apply(x) ** 2).mean() + (apply(-2 * x + 1) ** 3).mean()


def native(module, x):
    """The gradients by parameters, and buffers, of a loss of two calls in torch."""
    module = copy.deepcopy(module)
    twice(module, torch.tensor(x)).backward()
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    return gradients, {name: b.detach().numpy() for name, b in module.named_buffers()}


def same(found, expected):
    assert {*found} == {*expected}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=1e-5, err_msg=name)


@modes
@pytest.mark.parametrize("name", MODULES)
def test_two_calls_in_one_loss(name, options):
    if name == "cumulative" and options != MODES["anew"]:
        pytest.skip("it looks at how many batches there were")
    torch.manual_seed(0)
    module = MODULES[name]()
    net = torch2jax(copy.deepcopy(module), **options)

    def loss(params, buffers, x):
        state = [buffers]

        def apply(x):
            output, state[0] = net.apply(params, state[0], x)
            return output

        return twice(apply, x), state[0]

    gradients, buffers = jax.jit(jax.grad(loss, has_aux=True))(net.params, net.buffers, X)
    expected = native(module, X)
    same(gradients, expected[0])
    same(buffers, expected[1])


@modes
def test_a_scan_over_buffers(options):
    torch.manual_seed(0)
    module = MODULES["batch norm"]()
    net = torch2jax(copy.deepcopy(module), **options)
    batches = np.stack([X, 1 - X, 2 * X])

    def loss(params, buffers):
        def step(buffers, x):
            output, buffers = net.apply(params, buffers, x)
            return buffers, (output**2).mean()

        buffers, losses = jax.lax.scan(step, buffers, batches)
        return losses.sum(), buffers

    gradients, buffers = jax.grad(loss, has_aux=True)(net.params, net.buffers)
    sum((module(torch.tensor(x)) ** 2).mean() for x in batches).backward()
    same(gradients, {name: p.grad for name, p in module.named_parameters()})
    same(buffers, dict(module.named_buffers()))


@modes
def test_tangents_and_second_derivatives_of_two_calls(options):
    torch.manual_seed(0)
    module = MODULES["batch norm"]()
    net = torch2jax(copy.deepcopy(module), **options)

    def loss(t):
        params = {k: p * t for k, p in net.params.items()}
        _, buffers = net.apply(params, net.buffers, X)
        return (net.apply(params, buffers, 1 - X)[0] ** 3).mean()

    def there(t):
        scaled = {k: p.detach() * t for k, p in module.named_parameters()}
        buffers = {k: b.clone() for k, b in module.named_buffers()}
        call = lambda x: torch.func.functional_call(module, {**scaled, **buffers}, (x,))
        call(torch.tensor(X))
        return (call(1 - torch.tensor(X)) ** 3).mean()

    t = torch.tensor(1.3, requires_grad=True)
    (slope,) = torch.autograd.grad(there(t), t, create_graph=True)
    (curve,) = torch.autograd.grad(slope, t)
    at = jnp.float32(1.3)
    _, tangent = jax.jvp(loss, (at,), (jnp.float32(1),))
    np.testing.assert_allclose(tangent, slope.item(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(jax.grad(jax.grad(loss))(at), curve.item(), rtol=1e-3, atol=1e-5)


def test_a_batch_of_losses_of_two_calls():
    torch.manual_seed(0)
    net = torch2jax(MODULES["batch norm"]())

    def loss(params, x):
        output, buffers = net.apply(params, net.buffers, x)
        return (output**2).mean() + (net.apply(params, buffers, 1 - x)[0] ** 3).mean()

    batches = np.stack([X, 1 - 2 * X])
    found = jax.vmap(jax.grad(loss), (None, 0))(net.params, batches)
    for i, x in enumerate(batches):
        same({k: g[i] for k, g in found.items()}, jax.grad(loss)(net.params, x))


@modes
def test_a_function_that_writes_to_running_statistics(options):
    def norm(x, mean, var):
        mean, var = mean.clone(), var.clone()
        y = torch.batch_norm(x, None, None, mean, var, True, 0.1, 1e-5, False)
        return y, mean, var

    f = torch2jax(norm, **options)

    def loss(x):
        y, mean, var = f(x, jnp.zeros(3), jnp.ones(3))
        z, mean, var = f(y * x, mean, var)
        return (z**3).mean() + mean.sum() + var.sum()

    x = torch.tensor(X, requires_grad=True)
    y, *_ = norm(x, torch.zeros(3), torch.ones(3))
    (norm(y * x, torch.zeros(3), torch.ones(3))[0] ** 3).mean().backward()
    np.testing.assert_allclose(jax.grad(loss)(X), x.grad, rtol=1e-3, atol=1e-5)


@modes
def test_gradients_by_running_statistics_are_refused_as_in_torch(options):
    net = torch2jax(MODULES["batch norm"](), **options)
    loss = lambda buffers: net.apply(net.params, buffers, X)[0].sum()
    floats = {k: b for k, b in net.buffers.items() if b.dtype == jnp.float32}
    with pytest.raises(Exception, match="argument 'running_mean'"):
        jax.grad(lambda b: loss({**net.buffers, **b}))(floats)


def test_two_calls_in_one_loss_in_mlx():
    mx = pytest.importorskip("mlx.core")
    import mlx.nn as mlx_nn
    from mlx.utils import tree_flatten

    from bridge import torch2mlx

    for name, make in MODULES.items():
        torch.manual_seed(0)
        module = make()
        net = torch2mlx(copy.deepcopy(module), capture="never" if name == "cumulative" else "auto")
        step = mlx_nn.value_and_grad(net, lambda x, net=net: twice(net, x))
        for _ in range(2):  # the second starts from what the first has left
            _, gradients = step(mx.array(X))
            expected = native(module, X)
            twice(module, torch.tensor(X))
            same({k: np.array(g) for k, g in tree_flatten(gradients)}, expected[0])
            weights = dict(tree_flatten(net.parameters()))
            same({k: np.array(weights[k]) for k in expected[1]}, expected[1])
            for buffer in module.buffers():
                buffer.detach_()


def test_cotangents_of_buffers_in_mlx_are_not_handed_on():
    mx = pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    f = torch2mlx(lambda x: (x.sin().detach(), x**2, x.cos().detach(), x**3))
    x = mx.array([0.5, -1.5])
    ones = [mx.full((2,), 10.0**i) for i in range(4)]
    _, (gradient,) = mx.vjp(lambda x: list(f(x)), [x], ones)
    assert mx.allclose(gradient, 10 * 2 * x + 1000 * 3 * x**2)
    _, tangents = mx.jvp(lambda x: list(f(x)), [x], [mx.ones(2)])
    assert mx.allclose(tangents[0], mx.zeros(2))
    assert mx.allclose(tangents[3], 3 * x**2)
