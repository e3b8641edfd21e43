"""Buffers of a module that do not change, as constants of its module of Equinox."""

import copy

import numpy as np
import pytest

from bridge import ArgumentError, Functional, mlx2jax, to_mlx, to_torch, torch2jax
from tests.tensors import close

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")
nn = torch.nn

X = np.random.default_rng(4).normal(size=(6, 3)).astype("float32")


class Positions(nn.Module):
    """A module with a table, indices and a mask, as transformers have them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("table", torch.linspace(-1.3, 2.1, 12).reshape(4, 3))
        self.register_buffer("indices", torch.tensor([2, 0, 3, 1, 1, 2]))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x):
        return (self.linear(x) + self.table[self.indices]) * self.mask


class Average(nn.Module):
    """A module that changes a buffer, in a way of its own, and not by a normalization of torch."""

    def __init__(self, way, size=3):
        super().__init__()
        self.way = way
        self.scale = nn.Parameter(torch.tensor([0.5, 1.5, -0.7]))
        self.register_buffer("average", torch.tensor([0.2, 0.1, -0.3]))
        self.register_buffer("offset", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        new = x.detach().mean(0)
        if self.training and self.way == "in place":
            self.average.mul_(0.5).add_(new)
        if self.training and self.way == "by a view":
            self.average[1:].add_(new[1:])
        if self.training and self.way == "past autograd":
            self.average.data.add_(new)
        if self.training and self.way == "replaced":
            self.average = 0.5 * self.average + new
        return x * self.scale + self.average + self.offset


WAYS = pytest.mark.parametrize("way", ["in place", "by a view", "past autograd", "replaced"])
OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"lower": "xla"}, {"capture": "never"}], ids=["ffi", "xla", "eager"]
)


@OPTIONS
@pytest.mark.parametrize("training", [True, False])
def test_a_module_whose_buffers_do_not_change_has_no_state(options, training):
    module = Positions().train(training)
    net = torch2jax(module, **options)
    model, state = eqx.nn.make_with_state(net.to_equinox)()
    assert not model.is_stateful()
    for one in (model, net.to_equinox(), eqx.filter_jit(model)):
        close(one(X), module(torch.tensor(X)))
    with pytest.raises(ArgumentError, match="Positions has no buffers that change, so it takes no"):
        model(X, state)
    gradients = eqx.filter_grad(lambda model: (model(X) ** 2).sum())(model)
    (module(torch.tensor(X)) ** 2).sum().backward()
    close(gradients.linear.weight, module.linear.weight.grad)
    assert len(jax.tree.leaves(gradients)) == 2


def test_no_optimizer_moves_a_constant():
    module = Positions()
    model = torch2jax(copy.deepcopy(module)).to_equinox()
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    trained = eqx.filter(model, eqx.is_inexact_array)
    gradients = eqx.filter_grad(lambda model: model(X).sum())(model)
    updates, _ = optimizer.update(gradients, optimizer.init(trained), trained)
    back = to_torch(eqx.apply_updates(model, updates))
    for name, buffer in module.named_buffers():
        assert torch.equal(dict(back.named_buffers())[name], buffer)
        assert dict(back.named_buffers())[name].dtype == buffer.dtype
    assert not torch.equal(back.linear.weight, module.linear.weight)


def test_constants_are_saved_under_their_names(tmp_path):
    model = torch2jax(Positions()).to_equinox()
    assert model.indices.tolist() == [2, 0, 3, 1, 1, 2]
    close(model.table.value, Positions().table)
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", model)
    other = torch2jax(Positions()).to_equinox()
    other = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", other)
    close(other(X), model(X))


@WAYS
@OPTIONS
def test_a_call_that_changes_a_constant_is_refused(way, options):
    module = Average(way)
    model = torch2jax(module, **options).to_equinox()
    before = module.average.clone()
    text = r"Average changes its buffer 'average'.*`changing=\['average'\]`"
    for call in (model, eqx.filter_jit(model)):
        with pytest.raises(ArgumentError, match=text):
            jax.block_until_ready(call(X))
    with pytest.raises(ArgumentError, match=text):
        eqx.filter_grad(lambda model: model(X).sum())(model)
    inference = eqx.nn.inference_mode(model)
    close(inference(X), copy.deepcopy(module).eval()(torch.tensor(X)))
    assert torch.equal(module.average, before)


@WAYS
@OPTIONS
def test_buffers_that_a_user_names_are_state(way, options):
    module = Average(way)
    net = torch2jax(copy.deepcopy(module), **options)
    model, state = eqx.nn.make_with_state(net.to_equinox)(changing=["average"])
    for scale in (1, -2):
        output, state = eqx.filter_jit(model)(scale * X, state)
        close(output, module(torch.tensor(scale * X)))
    back = to_torch(model.with_state(state))
    close(back.average, module.average)
    close(back.offset, module.offset)


def test_unknown_names_are_refused():
    with pytest.raises(ArgumentError, match=r"no buffer 'mean'. It has \['table', 'indices'"):
        torch2jax(Positions()).to_equinox(changing=["mean"])
    net = Functional(lambda p, b, x: (p * x, b), np.ones(3), np.zeros(3))
    with pytest.raises(ArgumentError, match="a function, which returns all its buffers"):
        net.to_equinox(changing=[])


def test_evaluation_alone_needs_no_state():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module(torch.tensor(X))
    model = torch2jax(module.eval()).to_equinox(changing=())
    close(model(X), module(torch.tensor(X)))
    text = "Sequential changes its buffer '1.(running_mean|running_var|num_batches_tracked)'"
    with pytest.raises(ArgumentError, match=text):
        eqx.nn.inference_mode(model, value=False)(X)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)]
)
def test_statistics_are_state_beside_constants(norm):
    module = nn.Sequential(Positions(), norm).train()
    model, state = eqx.nn.make_with_state(torch2jax(copy.deepcopy(module)).to_equinox)()
    assert {*state.get(model.buffers)} == {
        name for name, _ in module.named_buffers() if "1." in name
    }
    x = X if isinstance(norm, nn.BatchNorm1d) else np.stack([X[:3], X[3:]]).swapaxes(1, 2)
    module[0] = nn.Identity() if x.ndim == 3 else module[0]
    if x.ndim == 3:
        model, state = eqx.nn.make_with_state(torch2jax(copy.deepcopy(module)).to_equinox)()
    output, state = model(x, state)
    close(output, module(torch.tensor(x)))
    close(state.get(model.buffers)["1.running_mean"], module[1].running_mean)
    evaluated, state = eqx.nn.inference_mode(model)(x, state)
    close(evaluated, module.eval()(torch.tensor(x)))


def test_spectral_normalization_is_a_statistic():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    model, state = eqx.nn.make_with_state(torch2jax(copy.deepcopy(module)).to_equinox)()
    output, state = model(X, state)
    close(output, module(torch.tensor(X)))
    close(to_torch(model.with_state(state)).weight, module.weight)


def test_statistics_of_a_part_in_evaluation_stay_one_under_vmap():
    """Each example has a key of its own, and all share the statistics, as in Equinox."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module(torch.tensor(X))
    module[1].eval()
    model, state = eqx.nn.make_with_state(torch2jax(module).to_equinox)()
    keys = jax.random.split(jax.random.key(0), 6)
    call = lambda x, key: model(x[None], state, key=key)
    outputs, state = jax.vmap(call, out_axes=(0, None))(X, keys)
    close(state.get(model.buffers)["1.running_mean"], module[1].running_mean)
    expected = module[:2](torch.tensor(X)).detach().numpy()
    ratio = np.asarray(outputs[:, 0]) / expected
    assert np.all(np.isclose(ratio, 0) | np.isclose(ratio, 2, rtol=1e-4))


def test_in_a_model_with_a_state_of_its_own():
    class Hybrid(eqx.Module):
        body: eqx.Module
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.body = torch2jax(module).to_equinox()
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

        def __call__(self, x, state):
            return jax.vmap(self.norm, (0, None), (0, None), axis_name="batch")(self.body(x), state)

    module = Positions()
    model, state = eqx.nn.make_with_state(Hybrid)()
    output, _ = eqx.filter_jit(model)(X, state)
    close(output, nn.BatchNorm1d(3)(module(torch.tensor(X))))


def test_constants_of_modules_of_mlx():
    mx = pytest.importorskip("mlx.core")
    import mlx.nn

    class Counted(mlx.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = mlx.nn.Linear(3, 3)
            self.norm = mlx.nn.BatchNorm(3)
            self.calls = mx.array([0.5])
            self.freeze(recurse=False)

        def __call__(self, x):
            if self.training:
                self.calls = self.calls + 1
            return self.norm(self.linear(x)) + self.calls

    layer = Counted()
    model, state = eqx.nn.make_with_state(mlx2jax(layer).to_equinox)()
    assert {*state.get(model.buffers)} == {"norm.running_mean", "norm.running_var"}
    with pytest.raises(ArgumentError, match=r"Counted changes its buffer 'calls'"):
        model(X, state)
    layer.eval()
    close(eqx.nn.inference_mode(model)(X, state)[0], layer(mx.array(X)))
    layer.train()
    names = [*state.get(model.buffers), "calls"]
    model, state = eqx.nn.make_with_state(mlx2jax(layer).to_equinox)(changing=names)
    output, state = model(X, state)
    close(output, layer(mx.array(X)))
    close(to_mlx(model.with_state(state)).calls, layer.calls)
