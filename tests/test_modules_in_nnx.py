"""Modules of torch and MLX as modules of Flax NNX."""

import copy
import pickle

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
nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")
jnp = jax.numpy
nn = torch.nn

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(6, 3)).astype("float32")
Y = RANDOM.normal(size=(6, 2)).astype("float32")
LOWER = pytest.mark.parametrize("lower", ["ffi", "xla"])


class Net(nn.Module):
    def __init__(self, rate=0.0):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh())
        self.dropout = nn.Dropout(rate)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.dropout(self.layers(x)))

    def encode(self, x):
        return self.layers(x)


@pytest.fixture
def module():
    torch.manual_seed(5)
    return Net()


@pytest.fixture
def noisy_module():
    torch.manual_seed(5)
    return Net(0.5)


def squared_error(model, x, y):
    return ((model(x) - y) ** 2).sum()


def values(model, kind=None):
    """Return the arrays of a module by their path with dots between."""
    state = nnx.state(model) if kind is None else nnx.state(model, kind)
    return {".".join(path): variable[...] for path, variable in nnx.to_flat_state(state)}


def train_natively(module, steps=3):
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    x, y = torch.tensor(X), torch.tensor(Y)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(module, x, y).backward()
        optimizer.step()


@nnx.jit
def train_step(model, optimizer, x, y):
    loss, gradients = nnx.value_and_grad(squared_error)(model, x, y)
    optimizer.update(model, gradients)
    return loss


def train(model, steps=3):
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    return [train_step(model, optimizer, X, Y) for _ in range(steps)]


@LOWER
def test_three_steps_equal_those_of_torch(module, lower):
    model = torch2jax(copy.deepcopy(module), lower=lower).to_nnx()
    train(model)
    train_natively(module)
    for name, expected in module.state_dict().items():
        close(values(model)[name], expected)


def test_gradients_equal_native(module):
    model = torch2jax(module).to_nnx()
    gradients = nnx.grad(squared_error)(model, X, Y)
    squared_error(module, torch.tensor(X), torch.tensor(Y)).backward()
    found = {".".join(path): g[...] for path, g in nnx.to_flat_state(gradients)}
    assert set(found) == {name for name, _ in module.named_parameters()}
    for name, parameter in module.named_parameters():
        close(found[name], parameter.grad)


def test_names_and_types_are_those_of_the_original(module):
    model = torch2jax(module).to_nnx()
    assert set(values(model, nnx.Param)) == {name for name, _ in module.named_parameters()}
    rest = nnx.state(model, nnx.Not(nnx.Param))
    buffers = {".".join(path): variable for path, variable in nnx.to_flat_state(rest)}
    assert set(buffers) == {name for name, _ in module.named_buffers()}
    assert {type(variable).__name__ for variable in buffers.values()} == {"Buffer"}
    assert isinstance(model.layers, nnx.Module)
    assert buffers["layers.1.num_batches_tracked"][...].dtype == "int32"


def test_optimizer_leaves_buffers_alone(module):
    module.eval()
    model = torch2jax(module).to_nnx()
    before = values(model)
    train(model)
    changed = {name for name, x in values(model).items() if (x != before[name]).any()}
    assert changed == {name for name, _ in module.named_parameters()}


def test_buffers_change_in_training_only(module):
    model = torch2jax(module).to_nnx()
    model(X)
    module(torch.tensor(X))
    close(model.layers[1].running_mean[...], module.layers[1].running_mean)
    model.eval()
    before = values(model)
    nnx.jit(lambda model, x: model(x))(model, X)
    assert all((x == before[name]).all() for name, x in values(model).items())


def test_modes_are_the_models_own(module):
    net = torch2jax(module)
    one, other = net.to_nnx(), net.to_nnx()
    other.eval()
    evaluated, trained = other(X), one(X)
    assert module.training
    close(trained, module(torch.tensor(X)))
    module.layers[1].reset_running_stats()
    close(evaluated, module.eval()(torch.tensor(X)))


def test_modes_part_by_part(module):
    model = torch2jax(module).to_nnx()
    model.layers.eval()
    module.layers.eval()
    close(model(X), module(torch.tensor(X)))
    assert (model.layers[1].num_batches_tracked[...], model.deterministic) == (0, False)
    assert not to_torch(model).layers[1].training
    assert to_torch(model).head.training


def test_two_flags_that_differ_are_refused(module):
    model = torch2jax(module).to_nnx()
    model.layers.set_attributes(deterministic=True)
    with pytest.raises(
        ArgumentError, match=r"part 'layers' of Net has deterministic=True and use_"
    ):
        model(X)


def test_view_of_nnx_has_modes_of_its_own(module):
    model = torch2jax(module).to_nnx()
    evaluated = nnx.view(model, deterministic=True, use_running_average=True)
    close(evaluated(X), copy.deepcopy(module).eval()(torch.tensor(X)))
    close(model(X), module(torch.tensor(X)))


def test_method_by_name(module):
    close(torch2jax(module).to_nnx()(X, method="encode"), module.encode(torch.tensor(X)))


@LOWER
def test_random_numbers_follow_from_the_stream(noisy_module, lower):
    net = torch2jax(noisy_module, lower=lower)
    one, same, other = (net.to_nnx(rngs=nnx.Rngs(dropout=seed)) for seed in (0, 0, 1))
    call = nnx.jit(lambda model: model(X))
    first, second = call(one), call(one)
    assert (first != second).any()
    close(call(same), first)
    assert (call(other) != first).any()
    assert one.rngs.count[...] == 2
    one.eval()
    call(one)
    assert one.rngs.count[...] == 2


def test_a_call_that_draws_nothing_takes_no_key(module):
    model = torch2jax(module).to_nnx(rngs=nnx.Rngs(0))
    model(X)
    assert model.rngs.count[...] == 0


def test_random_numbers_without_streams_are_refused(noisy_module):
    model = torch2jax(noisy_module).to_nnx()
    with pytest.raises(
        ArgumentError, match=r"Net draws random numbers.*to_nnx\(rngs=nnx.Rngs\(0\)\)"
    ):
        model(X)
    close(model(X, rngs=nnx.Rngs(dropout=7)), model(X, rngs=nnx.Rngs(dropout=7)))
    model.eval()
    model(X)


@pytest.mark.parametrize(
    ("rngs", "text"), [("Rngs(params=0)", "neither"), ("Param(1)", "class Param")]
)
def test_unusable_streams_are_refused(noisy_module, rngs, text):
    rngs = eval(f"nnx.{rngs}")
    with pytest.raises(ArgumentError, match=text):
        torch2jax(noisy_module).to_nnx(rngs=rngs)


def test_split_and_merge_under_plain_jit(module):
    model = torch2jax(module).to_nnx()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def loss(params, rest):
        model = nnx.merge(graph, params, rest)
        value = squared_error(model, X, Y)
        return value, nnx.split(model, nnx.Param, ...)[2]

    (_, rest), _ = jax.value_and_grad(loss, has_aux=True)(params, rest)
    module(torch.tensor(X))
    nnx.update(model, rest)
    close(model.layers[1].running_var[...], module.layers[1].running_var)


def test_scan_over_batches_carries_the_statistics(module):
    model = torch2jax(module).to_nnx()
    batches = RANDOM.normal(size=(4, 6, 3)).astype("float32")
    scan = nnx.scan(
        lambda model, x: (model, model(x)), in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0)
    )
    model, outputs = scan(model, batches)
    expected = [module(torch.tensor(x)) for x in batches]
    close(outputs, np.stack([x.detach() for x in expected]))
    close(model.layers[1].running_mean[...], module.layers[1].running_mean)


def test_remat_and_vmap(module):
    model = torch2jax(module).to_nnx()
    loss = lambda model, x: nnx.remat(lambda model, x: model(x).sum())(model, x)
    gradients = nnx.grad(loss)(model, X)
    module(torch.tensor(X)).sum().backward()
    close(gradients["head"]["weight"][...], module.head.weight.grad)
    model.eval()
    examples = RANDOM.normal(size=(5, 6, 3)).astype("float32")
    outputs = nnx.vmap(lambda model, x: model(x), in_axes=(None, 0))(model, examples)
    close(outputs[2], model(examples[2]))


def test_vmap_over_an_ensemble(module):
    torch.manual_seed(8)
    modules = [module.eval(), Net().eval()]
    models = [torch2jax(one).to_nnx() for one in modules]
    graph, _ = nnx.split(models[0])
    states = jax.tree.map(lambda *xs: jnp.stack(xs), *map(nnx.state, models))
    ensemble = nnx.merge(graph, states)
    outputs = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))(ensemble, X)
    for output, one in zip(outputs, modules, strict=True):
        close(output, one(torch.tensor(X)))


def test_back_to_torch_with_values_of_now(module):
    model = torch2jax(module).to_nnx()
    train(model)
    back = to_torch(model)
    train_natively(module)
    assert type(back) is Net
    assert back.layers[1].num_batches_tracked.dtype == torch.int64
    for name, expected in module.state_dict().items():
        close(back.state_dict()[name], expected)
    before = back.head.weight.clone()
    train(model)
    close(back.head.weight, before, rtol=0)
    (in_tree,) = to_torch({"model": model}).values()
    assert type(in_tree) is Net


def test_original_and_model_share_nothing(module):
    model = torch2jax(module).to_nnx()
    before = np.array(model.head.weight[...])
    with torch.no_grad():
        module.head.weight.add_(1.0)
    close(model.head.weight[...], before, rtol=0)


@pytest.mark.parametrize(
    "copied", [nnx.clone, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_are_independent(noisy_module, copied):
    model = torch2jax(noisy_module).to_nnx(rngs=nnx.Rngs(0))
    model.head.eval()
    twin = copied(model)
    close(twin(X), model(X))
    before = values(twin)["head.bias"]
    train(model)
    close(values(twin)["head.bias"], before, rtol=0)
    assert twin.head.deterministic


def test_checkpoint_by_orbax(module, tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    model, other = torch2jax(module).to_nnx(), torch2jax(module).to_nnx()
    train(model)
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
    with checkpoint.StandardCheckpointer() as checkpointer:
        nnx.update(other, checkpointer.restore(tmp_path / "state", nnx.state(other)))
    for name, x in values(model).items():
        close(values(other)[name], x, rtol=0)


def test_display(module):
    model = torch2jax(module).to_nnx(rngs=nnx.Rngs(0))
    assert "running_mean=Buffer" in repr(model)
    assert "Total Parameters: 41" in nnx.tabulate(model, X)


def test_in_a_model_of_nnx(module):
    class Hybrid(nnx.Module):
        def __init__(self, rngs):
            self.body = torch2jax(module).to_nnx(rngs=rngs)
            self.head = nnx.Linear(2, 2, rngs=rngs)

        def __call__(self, x):
            return self.head(self.body(x))

    model = Hybrid(nnx.Rngs(0))
    before = values(model, nnx.Param)
    losses = train(model)
    assert losses[2] < losses[0]
    assert all((x != before[name]).any() for name, x in values(model, nnx.Param).items())
    model.eval()
    assert model.body.layers[1].use_running_average


def test_names_of_flax_get_an_underscore():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.rngs = nn.Parameter(torch.tensor([2.0]))
            self.perturb = nn.Linear(3, 1)

        def forward(self, x):
            return self.perturb(x) * self.rngs

    module = Odd()
    model = torch2jax(module).to_nnx()
    close(model(X), module(torch.tensor(X)))
    assert {"rngs_", "perturb_"} <= set(nnx.state(model))


def test_tied_parameters_are_one():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    module = nn.Sequential(first, nn.Tanh(), second)
    model = torch2jax(module).to_nnx()
    gradients = nnx.grad(lambda model: model(X).sum())(model)
    module(torch.tensor(X)).sum().backward()
    ((path, gradient),) = nnx.to_flat_state(gradients)
    assert path == ("0", "weight")
    close(gradient[...], first.weight.grad)


def test_module_of_mlx():
    pytest.importorskip("mlx.core")
    import mlx.core as mx
    import mlx.nn

    layer = mlx.nn.Sequential(mlx.nn.Linear(3, 4), mlx.nn.BatchNorm(4), mlx.nn.Linear(4, 2))
    model = mlx2jax(layer).to_nnx()
    train_step(model, nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param), X, Y)
    close(model(X), layer(mx.array(X)))
    layer(mx.array(X))
    back = to_mlx(model)
    close(np.asarray(back.layers[1].running_mean), np.asarray(layer.layers[1].running_mean))


def test_function_with_weights():
    def apply(params, buffers, x, *, rng, training):
        noise = jax.random.normal(rng, (2,)) if training else 0.0
        return x @ params["w"] + noise, {"calls": buffers["calls"] + 1}

    net = Functional(apply, {"w": jnp.array(Y.T @ X).T}, {"calls": jnp.array(0)})
    model = net.to_nnx(rngs=nnx.Rngs(0))
    assert (model(X) != model(X)).any()
    assert model.calls[...] == 2
    model.eval()
    close(model(X), X @ net.params["w"])
    gradients = nnx.grad(lambda model: (model(X) ** 2).sum())(model)
    close(gradients["w"][...], 2 * X.T @ X @ net.params["w"])
    assert to_jax(model).buffers["calls"] == 4  # in evaluation and in derivatives too
    with pytest.raises(ArgumentError, match="has no streams"):
        net.to_nnx()(X)


def test_missing_flax_is_named(module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flax", None)
    with pytest.raises(MissingFrameworkError, match="pip install flax"):
        torch2jax(module).to_nnx()


def test_functions_of_mlx_modules_for_torch_are_no_nnx_modules(module):
    pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    net = torch2mlx(module)
    if isinstance(net, Functional):
        with pytest.raises(ArgumentError, match="arrays of mlx"):
            net.to_nnx()


def test_frozen_parameters_stay_as_they_are(module):
    module.head.requires_grad_(False)
    model = torch2jax(module).to_nnx()
    before = values(model)
    train(model)
    after = values(model)
    changed = {name for name, x in after.items() if (x != before[name]).any()}
    assert {"head.weight", "head.bias"}.isdisjoint(changed)
    assert "layers.0.weight" in changed
    assert not to_torch(model).head.weight.requires_grad


class KeepsNorm(nn.Module):
    """A module whose normalization stays in evaluation."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


def test_a_train_of_its_own_is_told_of():
    with pytest.warns(UserWarning, match=r"KeepsNorm has a method train\(\) of its own"):
        torch2jax(KeepsNorm().train()).to_nnx()


def test_functions_get_keys_in_evaluation_too():
    noise = lambda params, x, rng: params["w"] * jax.random.normal(rng, x.shape)
    model = Functional(noise, {"w": jnp.ones(3)}).to_nnx(rngs=nnx.Rngs(3))
    model.eval()
    first, second = model(jnp.ones(3)), model(jnp.ones(3))
    assert not np.array_equal(first, second)
    given = model(jnp.ones(3), rngs=nnx.Rngs(dropout=5))
    np.testing.assert_allclose(given, jax.random.normal(nnx.Rngs(dropout=5).dropout(), (3,)))


class Logs(nn.Module):
    """A module whose own method sets the modes of all parts."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode=True):
        self.last = mode
        return super().train(mode)

    def forward(self, x):
        return self.norm(x)


def test_a_train_that_sets_all_modes_needs_no_warning():
    module = Logs()
    module.norm.eval()
    torch2jax(module).to_nnx()
    assert module.training
    assert not module.norm.training
