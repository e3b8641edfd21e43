"""Modules of torch as parameters, buffers and a pure function for JAX."""

import dataclasses

import numpy as np
import pytest

from bridge import ArgumentError, OptionError, RangeError, to_torch, torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy
nn = torch.nn

RANDOM = np.random.default_rng(11)
X = RANDOM.normal(size=(6, 3)).astype("float32")
Y = RANDOM.normal(size=(6, 2)).astype("float32")


def network(*layers):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 4), *layers, nn.Linear(4, 2))


def close(found, expected, **how):
    """The same trees, of arrays of whatever framework."""
    found, expected = (
        jax.tree.map(lambda x: x.numpy(force=True) if torch.is_tensor(x) else np.asarray(x), tree)
        for tree in (found, expected)
    )
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    jax.tree.map(same, found, expected)


def native_gradients(module, loss):
    module.zero_grad()
    loss().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def test_output_and_gradients_equal_native():
    module = network(nn.GELU(), nn.LayerNorm(4))
    there = torch2jax(module)

    @jax.jit
    def loss(params):
        output, _ = there.apply(params, there.buffers, X)
        return ((output - Y) ** 2).sum()

    value, gradients = jax.value_and_grad(loss)(there.params)
    native = lambda: ((module(torch.tensor(X)) - torch.tensor(Y)) ** 2).sum()
    close(value, native())
    close(gradients, native_gradients(module, native))


def test_per_example_gradients_equal_native():
    module = network(nn.Tanh())
    there = torch2jax(module)

    def loss(params, x):
        return (there.apply(params, there.buffers, x)[0] ** 2).sum()

    found = jax.vmap(jax.grad(loss), in_axes=(None, 0))(there.params, X)
    for i, x in enumerate(X):
        native = native_gradients(module, lambda x=x: (module(torch.tensor(x)) ** 2).sum())
        close({name: g[i] for name, g in found.items()}, native)


def test_second_order_equals_native():
    module = network(nn.Softplus())
    there = torch2jax(module)
    found = jax.hessian(lambda x: there.apply(there.params, there.buffers, x)[0].sum())(X[0])
    expected = torch.func.hessian(lambda x: module(x).sum())(torch.tensor(X[0]))
    close(found, expected)


def test_parameters_share_memory_with_the_module():
    module = nn.Linear(64, 64)
    there = torch2jax(module)
    aligned = module.weight.data_ptr() % 64 == 0
    shared = there.params["weight"].unsafe_buffer_pointer() == module.weight.data_ptr()
    assert shared or not aligned
    np.testing.assert_array_equal(there.params["weight"], module.weight.numpy(force=True))


def test_the_module_keeps_its_state():
    module = network(nn.BatchNorm1d(4), nn.Dropout())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    there = torch2jax(module)
    there.apply(there.params, there.buffers, X, rng=jax.random.key(1))
    close(dict(module.state_dict()), before)
    assert all(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("jit", [False, True])
def test_statistics_of_a_batch_are_returned(jit):
    module = network(nn.BatchNorm1d(4))
    there = torch2jax(module)
    apply = jax.jit(there.apply) if jit else there.apply
    params, buffers = there.params, there.buffers
    for k in range(3):
        output, buffers = apply(params, buffers, X + k)
        close(output, module(torch.tensor(X + k)))
    close(buffers, dict(module.named_buffers()))
    assert buffers["1.num_batches_tracked"] == 3


class Counting(nn.Module):
    """A module that sets its buffer anew, where others change it in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        self.calls = self.calls + x.sum()
        return x * self.calls


def test_a_buffer_that_is_set_anew_is_returned():
    module = Counting()
    there = torch2jax(module)
    output, buffers = jax.jit(there.apply)(there.params, there.buffers, X)
    close(output, module(torch.tensor(X)))
    close(buffers, {"calls": module.calls})


def test_evaluation_and_training_are_told_apart():
    module = network(nn.BatchNorm1d(4))
    module(torch.tensor(X))
    there = torch2jax(module)
    for mode in (True, False, True):
        module.train(mode)
        output, buffers = there.apply(there.params, there.buffers, X)
        twin = network(nn.BatchNorm1d(4))
        twin.load_state_dict(module.state_dict())
        close(output, twin.train(mode)(torch.tensor(X)))
        close(buffers, dict(twin.named_buffers()))


def test_derivatives_are_those_of_the_mode_of_the_call():
    """A derivative of second order is captured later, when the mode may have changed."""
    module = network(nn.BatchNorm1d(4), nn.Softplus()).eval()
    there = torch2jax(module)
    f = lambda x: (there.apply(there.params, there.buffers, x)[0] ** 2).sum()
    f(X)
    module[1].momentum = 0.1
    _, pull = jax.vjp(jax.grad(f), X)
    module.train()
    (found,) = pull(jnp.asarray(X))
    module.eval()
    native = lambda x: (module(x) ** 2).sum()
    expected = torch.func.vjp(torch.func.grad(native), torch.tensor(X))[1](torch.tensor(X))[0]
    close(found, expected)


def test_one_part_in_evaluation():
    module = network(nn.BatchNorm1d(4))
    module[1].eval()
    there = torch2jax(module)
    output, buffers = there.apply(there.params, there.buffers, X)
    close(output, module(torch.tensor(X)))
    assert buffers["1.num_batches_tracked"] == 0


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(torch.tanh(self.embedding(tokens.long())))


def test_tied_parameters_are_one():
    torch.manual_seed(3)
    module = Tied()
    there = torch2jax(module)
    tokens = np.array([1, 4, 1])
    assert list(there.params) == ["embedding.weight"]
    weights = np.arange(15, dtype="float32").reshape(3, 5)
    found = jax.grad(lambda p: (there.apply(p, {}, jnp.asarray(tokens))[0] * weights).sum())(
        there.params
    )
    native = lambda: (module(torch.tensor(tokens)) * torch.tensor(weights)).sum()
    close(found, native_gradients(module, native))


@dataclasses.dataclass
class Output:
    logits: object
    hidden: object = None


class WithOutput(nn.Module):
    def forward(self, x, *, scale=1.0, mask=None):
        return Output(logits=x * scale if mask is None else x * mask, hidden=(x.sum(), None))


def test_output_in_a_dataclass():
    there = torch2jax(WithOutput())
    output, _ = there.apply({}, {}, X, scale=2.5)
    assert type(output) is Output
    close(output.logits, X * 2.5)
    close(output.hidden[0], X.sum())
    masked, _ = there.apply({}, {}, X, mask=jnp.asarray(X > 0))
    close(masked.logits, X * (X > 0))


def test_buffers_that_need_64_bits_are_refused():
    module = nn.Module()
    module.register_buffer("big", torch.tensor([1, 2**40]))
    with pytest.raises(RangeError, match=r"buffer big is int64\[2\], with values that need 64"):
        torch2jax(module)
    module = nn.Module()
    module.big = nn.Parameter(torch.tensor([1, -(2**40)]), requires_grad=False)
    with pytest.raises(RangeError, match=r"parameter big is int64\[2\], with values that need 64"):
        torch2jax(module)


class Indexing(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.index = nn.Parameter(torch.tensor([2, 0, 1, 2], dtype=dtype), requires_grad=False)
        self.weight = nn.Parameter(torch.tensor([1.5, -2.0, 0.25]))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2], dtype=dtype))

    def forward(self, x):
        assert self.index.dtype == self.order.dtype
        return (x * self.weight)[self.index.long()][self.order.long()]


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint64, torch.int32])
@pytest.mark.parametrize("options", [{}, {"lower": "xla"}], ids=str)
def test_integer_parameters_have_32_bits_outside(dtype, options):
    module = Indexing(dtype)
    there = torch2jax(module, **options)
    assert there.params["index"].dtype.itemsize == there.buffers["order"].dtype.itemsize == 4
    x = jnp.asarray(X[0])
    weight, expected = there.params["weight"], module(torch.tensor(X[0]))
    loss = lambda weight: (
        there.apply({**there.params, "weight": weight}, there.buffers, x)[0]
    ).sum()
    close(there.apply(there.params, there.buffers, x)[0], expected)
    close(jax.jit(jax.grad(loss))(weight), X[0] * np.array([1, 1, 2]))
    pytest.importorskip("flax.nnx")
    back = to_torch(there.to_nnx())
    assert back.index.dtype == dtype
    assert (back.index.long() == module.index.long()).all()


def test_buffers_may_hold_what_is_no_number():
    module = nn.Module()
    module.register_buffer("best", torch.tensor([float("nan"), 1.0]))
    module.forward = lambda x: x + module.best
    assert np.isnan(torch2jax(module).buffers["best"]).tolist() == [True, False]


def test_modules_have_no_static_argnums():
    with pytest.raises(OptionError, match="no static_argnums="):
        torch2jax(nn.Linear(2, 2), static_argnums=0)


def test_training_with_optax_equals_training_in_torch():
    optax = pytest.importorskip("optax")
    module = network(nn.Tanh(), nn.BatchNorm1d(4))
    there = torch2jax(module)
    rule = optax.sgd(0.1, momentum=0.9)

    @jax.jit
    def step(params, buffers, state, x):
        def loss(params):
            output, new = there.apply(params, buffers, x)
            return ((output - Y) ** 2).mean(), new

        gradients, buffers = jax.grad(loss, has_aux=True)(params)
        updates, state = rule.update(gradients, state)
        return optax.apply_updates(params, updates), buffers, state

    params, buffers = there.params, there.buffers
    state = rule.init(params)
    for k in range(5):
        params, buffers, state = step(params, buffers, state, X + 0.1 * k)
    descent = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for k in range(5):
        descent.zero_grad()
        ((module(torch.tensor(X + 0.1 * k)) - torch.tensor(Y)) ** 2).mean().backward()
        descent.step()
    close(params, dict(module.named_parameters()))
    close(buffers, dict(module.named_buffers()))


def test_repr_says_what_is_in_it():
    there = torch2jax(network(nn.BatchNorm1d(4)))
    assert (
        repr(there)
        == "<<torch2jax Sequential (capture='auto', lower='ffi')> of 6 parameters, 3 buffers>"
    )


class Encoder(torch.nn.Linear):
    def encode(self, x, scale=2):
        return torch.tanh(self(x)) * scale


@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_a_method_of_a_module(lower):
    module, x = Encoder(3, 2), np.float32([[0.5, -1.0, 2.0]])
    expected = module.encode(torch.tensor(x)).detach()
    net = torch2jax(module, method="encode", lower=lower)
    by_function = torch2jax(module, method=lambda m, x: m.encode(x, scale=3), lower=lower)
    np.testing.assert_allclose(net.apply(net.params, net.buffers, x)[0], expected, rtol=1e-5)
    found = by_function.apply(net.params, net.buffers, x)[0]
    np.testing.assert_allclose(found, 1.5 * expected, rtol=1e-5)
    slope = jax.grad(lambda params: net.apply(params, net.buffers, x)[0].sum())(net.params)
    np.testing.assert_allclose(slope["bias"], 2 * (1 - expected[0] ** 2 / 4), rtol=1e-4)
    with pytest.raises(ArgumentError, match=r'`torch2jax\(module, method="encode"\)`'):
        torch2jax(module.encode)
