"""Modules of torch and MLX as modules of Equinox."""

import copy
import pickle
import sys

import numpy as np
import pytest

from bridge import (
    ArgumentError,
    Functional,
    MissingFrameworkError,
    mlx2jax,
    to_jax,
    to_mlx,
    to_torch,
    torch2jax,
)
from tests.tensors import close

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")
jnp = jax.numpy
nn = torch.nn

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(size=(6, 3)).astype("float32")
Y = RANDOM.normal(size=(6, 2)).astype("float32")
LOWER = pytest.mark.parametrize("lower", ["ffi", "xla"])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layers(x))

    def encode(self, x):
        return self.layers(x)


@pytest.fixture
def module():
    torch.manual_seed(5)
    return Net()


@pytest.fixture
def backbone():
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


@pytest.fixture
def noisy():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))


def with_state(module, **how):
    return eqx.nn.make_with_state(torch2jax(module, **how).to_equinox)()


def train_natively(module, steps=3):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x, y = torch.tensor(X), torch.tensor(Y)
    for _ in range(steps):
        optimizer.zero_grad()
        ((module(x) - y) ** 2).sum().backward()
        optimizer.step()


ADAM = optax.adam(1e-2)


@eqx.filter_jit
def train_step(model, state, memory):
    def loss(model, state):
        output, state = model(X, state)
        return ((output - Y) ** 2).sum(), state

    (_, state), gradients = eqx.filter_value_and_grad(loss, has_aux=True)(model, state)
    updates, memory = ADAM.update(gradients, memory)
    return eqx.apply_updates(model, updates), state, memory


def train(model, state, steps=3):
    memory = ADAM.init(eqx.filter(model, eqx.is_inexact_array))
    for _ in range(steps):
        model, state, memory = train_step(model, state, memory)
    return model, state


@LOWER
def test_three_steps_equal_those_of_torch(module, lower):
    model, state = train(*with_state(copy.deepcopy(module), lower=lower))
    train_natively(module)
    back = to_torch(model.with_state(state))
    for name, expected in module.state_dict().items():
        close(back.state_dict()[name], expected)
        assert back.state_dict()[name].dtype == expected.dtype


def test_gradients_have_the_names_of_the_original(backbone):
    model = torch2jax(backbone).to_equinox()
    gradients = eqx.filter_grad(lambda model: ((model(X) - Y) ** 2).sum())(model)
    ((backbone(torch.tensor(X)) - torch.tensor(Y)) ** 2).sum().backward()
    close(gradients[0].weight, backbone[0].weight.grad)
    close(gradients[2].bias, backbone[2].bias.grad)
    assert len(jax.tree.leaves(gradients)) == 4


def test_without_buffers_there_is_no_state(backbone):
    model, state = with_state(backbone)
    close(model(X), backbone(torch.tensor(X)))
    close(torch2jax(backbone).to_equinox()(X), backbone(torch.tensor(X)))
    with pytest.raises(
        ArgumentError, match="Sequential has no buffers that change, so it takes no state"
    ):
        model(X, state)


def test_buffers_need_a_state(module):
    model, _ = with_state(module)
    with pytest.raises(ArgumentError, match=r"Net has buffers.*make_with_state\(net.to_equinox\)"):
        model(X)


def test_statistics_change_in_training_only(module):
    model, state = with_state(module)
    output, state = model(X, state)
    close(output, module(torch.tensor(X)))
    close(state.get(model.buffers)["layers.1.running_mean"], module.layers[1].running_mean)
    inference = eqx.nn.inference_mode(model)
    module.eval()
    for _ in range(2):  # a state that does not change can be used again
        output, state = inference(X, state)
        close(output, module(torch.tensor(X)))
    assert state.get(model.buffers)["layers.1.num_batches_tracked"] == 1


def test_modes_are_the_models_own(module):
    net = torch2jax(module)
    model, state = eqx.nn.make_with_state(net.to_equinox)()
    inference = eqx.nn.inference_mode(model)
    evaluated, _ = inference(X, state)
    trained, _ = model(X, state)
    assert module.training
    close(evaluated, copy.deepcopy(module).eval()(torch.tensor(X)))
    close(trained, module(torch.tensor(X)))
    module.eval()
    assert net.to_equinox().inference
    assert not model.inference


def test_modes_part_by_part(module):
    model, state = with_state(module)
    model = eqx.tree_at(lambda model: model.layers, model, replace_fn=eqx.nn.inference_mode)
    module.layers.eval()
    output, state = model(X, state)
    close(output, module(torch.tensor(X)))
    back = to_torch(model.with_state(state))
    assert (back.layers[1].training, back.head.training) == (False, True)


def test_method_by_name(module):
    model, state = with_state(module)
    close(model(X, state, method="encode")[0], module.encode(torch.tensor(X)))


@LOWER
def test_random_numbers_follow_from_the_key(noisy, lower):
    model = torch2jax(noisy, lower=lower).to_equinox()
    call = eqx.filter_jit(lambda model, seed: model(X, key=jax.random.key(seed)))
    first = call(model, 0)
    close(call(model, 0), first)
    assert (call(model, 1) != first).any()
    with pytest.raises(ArgumentError, match=r"draws random numbers. Pass `key=jax.random.key"):
        model(X)
    close(eqx.nn.inference_mode(model)(X), noisy.eval()(torch.tensor(X)))


def test_each_example_has_its_key(noisy):
    model = torch2jax(noisy).to_equinox()
    keys = jax.random.split(jax.random.key(0), 6)
    outputs = jax.vmap(lambda x, key: model(x, key=key))(X, keys)
    for output, x, key in zip(outputs, X, keys, strict=True):
        close(output, model(x, key=key))


def test_both_halves_of_a_hybrid_train(backbone):
    class Hybrid(eqx.Module):
        head: eqx.nn.Linear
        body: eqx.Module = torch2jax(copy.deepcopy(backbone)).to_equinox()

        def __call__(self, x):
            return self.head(self.body(x))

    model = Hybrid(eqx.nn.Linear(2, 2, key=jax.random.key(1)))
    optimizer = optax.sgd(0.1)

    @eqx.filter_jit
    def step(model):
        loss = lambda model: ((jax.vmap(model)(X) - Y) ** 2).sum()
        updates, _ = optimizer.update(eqx.filter_grad(loss)(model), optimizer.init(None))
        return eqx.apply_updates(model, updates)

    head = nn.Linear(2, 2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.array(model.head.weight)))
        head.bias.copy_(torch.tensor(np.array(model.head.bias)))
    native = nn.Sequential(backbone, head)
    native_optimizer = torch.optim.SGD(native.parameters(), 0.1)
    for _ in range(3):
        model = step(model)
        native_optimizer.zero_grad()
        ((native(torch.tensor(X)) - torch.tensor(Y)) ** 2).sum().backward()
        native_optimizer.step()
    close(model.head.weight, head.weight)
    close(model.body[0].weight, backbone[0].weight)
    close(to_torch(model.body)[2].bias, backbone[2].bias)


def test_state_in_a_hybrid(module):
    class Hybrid(eqx.Module):
        body: eqx.Module
        head: eqx.nn.Linear

        def __init__(self, key):
            self.body = torch2jax(module).to_equinox()
            self.head = eqx.nn.Linear(2, 2, key=key)

        def __call__(self, x, state):
            x, state = self.body(x, state)
            return jax.vmap(self.head)(x), state

    model, state = eqx.nn.make_with_state(Hybrid)(jax.random.key(0))
    _, state = eqx.filter_jit(model)(X, state)
    module(torch.tensor(X))
    back = to_torch(model.body.with_state(state))
    close(back.layers[1].running_var, module.layers[1].running_var)


def test_in_a_sequential(module):
    layers = lambda: eqx.nn.Sequential([torch2jax(module).to_equinox(), eqx.nn.Lambda(jnp.tanh)])
    model, state = eqx.nn.make_with_state(layers)()
    output, _ = model(X, state)
    close(output, torch.tanh(module(torch.tensor(X))))


def test_ensemble_by_filter_vmap(backbone):
    torch.manual_seed(1)
    modules = [backbone, nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))]
    net = torch2jax(backbone).to_equinox()
    _, static = eqx.partition(net, eqx.is_array)
    arrays = [eqx.filter(torch2jax(one).to_equinox(), eqx.is_array) for one in modules]
    leaves = [jnp.stack(xs) for xs in zip(*map(jax.tree.leaves, arrays), strict=True)]
    stacked = jax.tree.unflatten(jax.tree.structure(eqx.filter(net, eqx.is_array)), leaves)
    ensemble = eqx.combine(stacked, static)
    outputs = eqx.filter_vmap(lambda model: model(X))(ensemble)
    for output, one in zip(outputs, modules, strict=True):
        close(output, one(torch.tensor(X)))


def test_serialised_leaves(module, tmp_path):
    model, state = train(*with_state(module))
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", (model, state))
    other = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", with_state(module))
    close(other[0](X, other[1])[0], model(X, state)[0], rtol=0)


def test_tree_at_replaces_a_parameter(backbone):
    model = torch2jax(backbone).to_equinox()
    model = eqx.tree_at(lambda model: model[2].bias, model, jnp.zeros(2))
    with torch.no_grad():
        backbone[2].bias.zero_()
    close(model(X), backbone(torch.tensor(X)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(module, copied):
    model, state = train(*with_state(module))
    twin, twin_state = copied((model, state))
    close(twin(X, twin_state)[0], model(X, state)[0])


def test_original_and_model_share_nothing(backbone):
    model = torch2jax(backbone).to_equinox()
    expected = backbone(torch.tensor(X)).detach()
    with torch.no_grad():
        backbone[0].weight.add_(1.0)
    close(model(X), expected)


def test_back_without_the_state_is_refused(module):
    model, _ = with_state(module)
    with pytest.raises(ArgumentError, match=r"buffers of Net are in the state.*with_state\(state"):
        to_torch(model)
    close(to_torch(torch2jax(module).to_equinox()).head.weight, module.head.weight)


def test_names_and_display(module):
    model = torch2jax(module).to_equinox()
    assert "torch2jax Net" in repr(model)
    with pytest.raises(AttributeError, match="no attribute 'tail'"):
        _ = model.tail
    with pytest.raises(TypeError, match="cannot be iterated"):
        list(model.layers)


def test_names_of_the_class_are_items():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.program = nn.Linear(3, 1)

        def forward(self, x):
            return self.program(x)

    module = Odd()
    model = torch2jax(module).to_equinox()
    close(model(X), module(torch.tensor(X)))
    close(model["program"].weight, module.program.weight)


def test_module_of_mlx():
    mx = pytest.importorskip("mlx.core")
    import mlx.nn

    layer = mlx.nn.Sequential(mlx.nn.Linear(3, 4), mlx.nn.BatchNorm(4), mlx.nn.Linear(4, 2))
    model, state = eqx.nn.make_with_state(mlx2jax(layer).to_equinox)()
    output, state = model(X, state)
    close(output, np.asarray(layer(mx.array(X))))
    back = to_mlx(model.with_state(state))
    close(np.asarray(back.layers[1].running_mean), np.asarray(layer.layers[1].running_mean))


def test_function_with_weights():
    def apply(params, x, *, rng, inference):
        noise = 0.0 if inference else jax.random.normal(rng, (2,))
        return x @ params["w"] + noise

    net = Functional(apply, {"w": jnp.array(X.T @ Y)})
    model = net.to_equinox()
    assert (model(X, key=jax.random.key(0)) != model(X, key=jax.random.key(1))).any()
    with pytest.raises(ArgumentError, match="Pass `key="):
        model(X)
    model = eqx.nn.inference_mode(model)
    gradients = eqx.filter_grad(lambda model: (model(X) ** 2).sum())(model)
    close(gradients.w, 2 * X.T @ X @ net.params["w"])
    close(to_jax(model).params["w"], net.params["w"])


def test_missing_equinox_is_named(backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(MissingFrameworkError, match="pip install equinox"):
        torch2jax(backbone).to_equinox()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_frozen_parameters_stay_as_they_are(backbone, dtype):
    backbone[0].requires_grad_(False)
    backbone.to(dtype)
    model = torch2jax(backbone).to_equinox()
    x = jnp.asarray(X, str(dtype).removeprefix("torch."))
    expected = backbone(torch.tensor(X).to(dtype)).float()
    close(model(x).astype("float32"), expected, rtol=1e-2)
    gradients = eqx.filter_grad(lambda model: model(x).sum())(model)
    assert len(jax.tree.leaves(gradients)) == 2
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    updates, _ = optimizer.update(
        gradients, optimizer.init(gradients), eqx.filter(model, eqx.is_inexact_array)
    )
    trained = eqx.apply_updates(model, updates)
    close(trained[0].weight.value.astype("float32"), backbone[0].weight.float(), rtol=0)
    assert (trained[2].weight != model[2].weight).any()
    back = to_torch(trained)
    assert not back[0].weight.requires_grad
    assert back[2].weight.requires_grad


def test_frozen_parameters_can_be_trained_again(backbone):
    backbone[0].requires_grad_(False)
    model = torch2jax(backbone).to_equinox()
    place = lambda model: model[0].weight
    model = eqx.tree_at(place, model, place(model).value)
    gradients = eqx.filter_grad(lambda model: model(X).sum())(model)
    backbone.requires_grad_(True)(torch.tensor(X)).sum().backward()
    close(gradients[0].weight, backbone[0].weight.grad)


def test_arguments_of_the_original_are_no_key_and_no_state():
    class Attention(nn.Module):
        def forward(self, query, key=None, state=None):
            return query if key is None else query + 2 * key + 3 * state

    model = torch2jax(Attention()).to_equinox()
    close(model(X, X, X), 6 * X)
    for name in ("key", "state"):
        with pytest.raises(ArgumentError, match=f"`{name}` of Attention itself is passed by posit"):
            model(X, **{name: jnp.array(X)})
    close(model(X, key=jax.random.key(0)), X)
    close(model(X, key=jax.random.PRNGKey(0)), X)


def test_frozen_complex_parameter():
    class Phase(nn.Module):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.tensor([1 + 2j, 0.5 - 1j]), requires_grad=False)

        def forward(self, x):
            return self.phase * x

    model = torch2jax(Phase()).to_equinox()
    x = jnp.array([0.3 - 1j, 2.0])
    close(model(x), np.array([1 + 2j, 0.5 - 1j]) * np.asarray(x))
    assert not jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def test_modules_made_of_one_have_one_structure(module):
    """So that they are averaged, compared, and traced once."""
    net, traces = torch2jax(module), []
    (one, state), (other, other_state) = (eqx.nn.make_with_state(net.to_equinox)() for _ in "ab")
    mean = jax.tree.map(
        lambda x, y: (x + y) / 2, *(eqx.filter(x, eqx.is_array) for x in (one, other))
    )
    close(mean.head.weight, module.head.weight)
    assert eqx.tree_equal(one, other)

    @eqx.filter_jit
    def call(model, state):
        traces.append(model)
        return model(X, state)[0]

    close(call(one, state), call(other, other_state))
    assert len(traces) == 1


def test_modules_made_of_one_function_have_one_structure():
    double = lambda params, x: 2 * params["w"] * x
    one, other = (Functional(double, {"w": jnp.array([1.0, 3.0])}).to_equinox() for _ in "ab")
    assert jax.tree.structure(one) == jax.tree.structure(other)
    third = Functional(double, {"w": jnp.ones(2), "b": jnp.ones(2)}).to_equinox()
    assert jax.tree.structure(one) != jax.tree.structure(third)
