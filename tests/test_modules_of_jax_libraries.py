"""Modules of torch and MLX in the tools that libraries of JAX have for their own modules."""

import copy
import functools

import numpy as np
import pytest

from bridge import to_torch, torch2jax
from tests.tensors import close as close_to

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx")
eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")
jnp = jax.numpy
nn = torch.nn

RANDOM = np.random.default_rng(6)
X = RANDOM.normal(size=(4, 2, 5, 5)).astype("float32")
Y = RANDOM.normal(size=(4, 3)).astype("float32")


class CNN(nn.Module):
    """A convolutional network with running statistics, dropout, and constants."""

    def __init__(self, rate=0.0):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(rate)
        self.head = nn.Linear(100, 3)
        self.register_buffer("scale", torch.tensor([0.5, 1.5, 2.0]))
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.flatten(1))) * self.scale[self.order]


@pytest.fixture
def module():
    torch.manual_seed(2)
    return CNN()


@pytest.fixture
def noisy():
    torch.manual_seed(2)
    return CNN(0.5)


close = functools.partial(close_to, rtol=1e-3)


def same_tensors(back, module):
    for name, expected in module.state_dict().items():
        close(back.state_dict()[name], expected)


def squared_error(model, x, y):
    return ((model(x) - y) ** 2).mean()


def train_natively(module, steps=3):
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(module, torch.tensor(X), torch.tensor(Y)).backward()
        optimizer.step()


def nnx_step(pair):
    model, optimizer = pair
    optimizer.update(model, nnx.grad(squared_error)(model, X, Y))
    return pair


LOOPS = {
    "donated": lambda pair: [nnx.jit(nnx_step, donate_argnums=0)(pair) for _ in range(3)],
    "fori_loop": lambda pair: nnx.fori_loop(0, 3, lambda _, pair: nnx_step(pair), pair),
    "scan": lambda pair: nnx.scan(
        lambda pair, _: (nnx_step(pair), 0), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0)
    )(pair, jnp.arange(3)),
}


@pytest.mark.parametrize("loop", LOOPS)
def test_training_in_loops_of_nnx(module, loop):
    model = torch2jax(copy.deepcopy(module)).to_nnx()
    pair = model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    results = LOOPS[loop](pair)
    if loop != "donated":
        model = results[0] if loop == "fori_loop" else results[0][0]
    train_natively(module)
    same_tensors(to_torch(model), module)


def test_remat_draws_the_same_numbers_again(noisy):
    net = torch2jax(noisy)
    one, other = (net.to_nnx(rngs=nnx.Rngs(0)) for _ in "ab")
    gradients = nnx.grad(squared_error)(one, X, Y)
    again = nnx.grad(lambda *xs: nnx.remat(squared_error)(*xs))(other, jnp.array(X), jnp.array(Y))
    jax.tree.map(close, gradients, again)
    assert one.rngs.count[...] == other.rngs.count[...] == 1
    close(one.norm.running_mean[...], other.norm.running_mean[...])


def test_an_abstract_module_of_nnx_is_loaded(module, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    net = torch2jax(module)
    model = net.to_nnx()
    model(X)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.to_pure_dict(nnx.state(model)))
        checkpointer.wait_until_finished()
        loaded = checkpointer.restore(tmp_path / "state")
    graph, state = nnx.split(nnx.eval_shape(net.to_nnx))
    nnx.replace_by_pure_dict(state, loaded)
    same_tensors(to_torch(nnx.merge(graph, state)), to_torch(model))


def test_checkpoint_of_a_module_of_equinox_by_orbax(module, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    make = eqx.nn.make_with_state(torch2jax(module).to_equinox)
    model, state = make()
    _, state = model(X, state)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", eqx.filter((model, state), eqx.is_array))
        checkpointer.wait_until_finished()
        arrays, rest = eqx.partition(make(), eqx.is_array)
        loaded = eqx.combine(checkpointer.restore(tmp_path / "model", arrays), rest)
    same_tensors(to_torch(loaded[0].with_state(loaded[1])), to_torch(model.with_state(state)))


def equinox_loss(model, state, key=None):
    output, state = model(X, state, key=key)
    return ((output - Y) ** 2).mean(), state


@pytest.mark.parametrize("donate", ["none", "all"])
def test_training_of_a_module_of_equinox(module, donate):
    @eqx.filter_jit(donate=donate)
    def step(model, state):
        gradients, state = eqx.filter_grad(equinox_loss, has_aux=True)(model, state)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradients)), state

    model, state = eqx.nn.make_with_state(torch2jax(copy.deepcopy(module)).to_equinox)()
    for _ in range(3):
        model, state = step(model, state)
    train_natively(module)
    same_tensors(to_torch(model.with_state(state)), module)


@pytest.mark.parametrize("checkpointed", ["equinox", "jax"])
def test_checkpointed_gradients_of_equinox(noisy, checkpointed):
    make = eqx.nn.make_with_state(torch2jax(noisy).to_equinox)
    key = jax.random.key(3)
    model, state = make()
    gradients, _ = eqx.filter_grad(equinox_loss, has_aux=True)(model, state, key)
    model, state = make()
    if checkpointed == "equinox":
        loss = lambda model: eqx.filter_checkpoint(equinox_loss)(model, state, key)[0]
        again = eqx.filter_grad(loss)(model)
    else:
        arrays, rest = eqx.partition(model, eqx.is_inexact_array)
        loss = lambda arrays: equinox_loss(eqx.combine(arrays, rest), state, key)[0]
        again = jax.grad(jax.checkpoint(loss))(arrays)
    jax.tree.map(close, *(eqx.filter(x, eqx.is_inexact_array) for x in (gradients, again)))


def test_closures_and_shapes_of_equinox(module):
    make = eqx.nn.make_with_state(torch2jax(module).to_equinox)
    model, state = make()
    call = eqx.filter_closure_convert(model, jnp.array(X), state)
    model, state = make()
    close(call(jnp.array(X), state)[0], module(torch.tensor(X)))
    abstract, _ = eqx.filter_eval_shape(make)
    assert isinstance(abstract.conv.weight, jax.ShapeDtypeStruct)
    assert jax.tree.structure(abstract) == jax.tree.structure(model)
    model, state = make()
    output, _ = eqx.filter_eval_shape(model, jnp.array(X), state)
    assert output.shape == (4, 3)


def test_modules_made_of_one_have_one_structure(module):
    net, traces = torch2jax(module), []
    one, other = net.to_nnx(), net.to_nnx()
    assert nnx.graphdef(one) == nnx.graphdef(other)

    @nnx.jit
    def call(model):
        traces.append(model)
        return model(X)

    close(call(one), call(other))
    assert len(traces) == 1
