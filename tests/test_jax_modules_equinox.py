"""Modules of Equinox, and other callable pytrees, in torch."""

import copy
import dataclasses
import functools
import pickle

import numpy as np
import pytest

from bridge import ArgumentError, jax2torch, to_jax, to_torch

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
eqx = pytest.importorskip("equinox")
optax = pytest.importorskip("optax")

X = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
Y = np.random.default_rng(2).normal(size=(5, 2)).astype("float32")
KEY = jax.random.key(3)


def tensor(x):
    return torch.tensor(np.asarray(x))


def over_examples(model, x):
    return jax.vmap(model)(x)


def with_keys(model, x, key):
    return jax.vmap(model)(x, key=jax.random.split(key, len(x)))


class Net(eqx.Module):
    linear: eqx.nn.Linear
    dropouts: list
    norm: eqx.nn.LayerNorm
    steps: jax.Array
    name: str

    def __init__(self):
        self.linear, self.norm = eqx.nn.Linear(3, 4, key=KEY), eqx.nn.LayerNorm(4)
        self.dropouts = [eqx.nn.Dropout(0.5), eqx.nn.Dropout(0.5, inference=True)]
        self.steps, self.name = jax.numpy.array([2, 3]), "net"

    def __call__(self, x, *, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        x = self.norm(jax.numpy.tanh(self.linear(x))) * self.steps[1]
        for dropout, k in zip(self.dropouts, keys, strict=True):
            x = dropout(x, key=k)
        return x


def test_names_and_kinds():
    layer = jax2torch(Net())
    names = ["linear.weight", "linear.bias", "norm.weight", "norm.bias"]
    assert [name for name, _ in layer.named_parameters()] == names
    assert [(name, x.dtype) for name, x in layer.named_buffers()] == [("steps", torch.int32)]
    assert repr(layer).startswith("jax2torch(Net")


def test_steps_of_an_optimizer_equal_those_of_optax():
    model = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    layer = jax2torch(model, method=over_examples)
    ours, theirs = (
        torch.optim.AdamW(layer.parameters(), lr=0.1),
        optax.adamw(0.1, weight_decay=0.01),
    )
    state = theirs.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        objective = lambda model: ((over_examples(model, X) - Y) ** 2).mean()
        gradients = eqx.filter_grad(objective)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = theirs.update(gradients, state, params)
        return eqx.apply_updates(model, updates), state

    for _ in range(3):
        ours.zero_grad()
        ((layer(tensor(X)) - tensor(Y)) ** 2).mean().backward()
        ours.step()
        model, state = step(model, state)
    back = to_jax(layer)
    assert isinstance(back, eqx.nn.MLP)
    assert jax.tree.structure(back) == jax.tree.structure(model)
    for found, true in zip(back.layers, model.layers, strict=True):
        np.testing.assert_allclose(found.weight, true.weight, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.bias, true.bias, rtol=1e-3, atol=1e-5)


def test_modes_part_by_part():
    layer = jax2torch(Net(), method=with_keys)
    first, second = layer.get_submodule("dropouts.0"), layer.get_submodule("dropouts.1")
    assert layer.training
    assert first.training
    assert not second.training
    assert (layer(tensor(X)) == 0).any()
    first.eval()
    state = torch.get_rng_state()
    found = layer(tensor(X))
    assert (torch.get_rng_state() == state).all()  # nothing draws
    evaluated = eqx.nn.inference_mode(Net())
    np.testing.assert_allclose(found.detach(), jax.vmap(evaluated)(X), rtol=1e-4, atol=1e-5)
    second.train()
    assert (layer(tensor(X)) == 0).any()
    assert [dropout.inference for dropout in to_jax(layer).dropouts] == [True, False]
    assert not jax2torch(evaluated).training


def test_random_numbers_are_those_of_the_key():
    layer = jax2torch(Net(), method=with_keys)
    found = layer(tensor(X), rng=to_torch(jax.random.key_data(KEY)))
    np.testing.assert_allclose(found.detach(), with_keys(Net(), X, KEY), rtol=1e-4, atol=1e-5)
    dropout = jax2torch(eqx.nn.Dropout(0.5))  # it has no arrays, but a mode
    torch.manual_seed(1)
    first = dropout(torch.ones(50))
    assert (dropout(torch.ones(50)) != first).any()
    torch.manual_seed(1)
    torch.testing.assert_close(dropout(torch.ones(50)), first)
    assert (dropout(torch.ones(50), inference=True) == 1).all()
    assert (dropout.eval()(torch.ones(50)) == 1).all()


def test_what_is_shared_is_one_parameter():
    class Model(eqx.Module):
        shared: eqx.nn.Shared
        equal: jax.Array

        def __init__(self):
            embedding = eqx.nn.Embedding(5, 3, key=KEY)
            linear = eqx.nn.Linear(3, 5, use_bias=False, key=KEY)
            where, get = (lambda pair: pair[1].weight), (lambda pair: pair[0].weight)
            self.shared = eqx.nn.Shared((embedding, linear), where, get)
            self.equal = embedding.weight

        def __call__(self, tokens):
            embedding, linear = self.shared()
            return jax.vmap(linear)(jax.vmap(embedding)(tokens)) @ self.equal

    tokens = np.array([1, 4, 2])
    layer = jax2torch(Model())
    assert {n for n, _ in layer.named_parameters()} == {"shared.pytree.0.weight", "equal"}
    (layer(tensor(tokens)) ** 2).sum().backward()
    true = eqx.filter_grad(lambda model: (model(tokens) ** 2).sum())(Model())
    found = layer.get_parameter("shared.pytree.0.weight").grad
    np.testing.assert_allclose(found, true.shared.pytree[0].weight, rtol=1e-4)
    np.testing.assert_allclose(layer.equal.grad, true.equal, rtol=1e-4)


def test_statistics_are_an_argument_as_in_equinox():
    class Model(eqx.Module):
        linear: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.linear = eqx.nn.Linear(3, 4, key=KEY)
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(self.linear(x), state)

    def call(model, x, state):
        axes = {"in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(model, axis_name="batch", **axes)(x, state)

    model, state = eqx.nn.make_with_state(Model)()
    layer, there = jax2torch(model, method=call), to_torch(state)
    for _ in range(2):
        found, there = layer(tensor(X), there)
        expected, state = call(model, X, state)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)
    evaluated, _ = call(eqx.nn.inference_mode(model), X, state)
    found, _ = layer.eval()(tensor(X), there)
    np.testing.assert_allclose(found.detach(), evaluated, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "container", [tuple, list, lambda pair: dict(zip("ab", pair, strict=True))]
)
@pytest.mark.parametrize("options", [{}, {"method": lambda pair, x: pair[0](x, pair[1])}])
def test_module_in_a_container_is_refused_and_its_state_is_an_argument(container, options):
    class Counting(eqx.Module):
        linear: eqx.nn.Linear
        index: eqx.nn.StateIndex

        def __init__(self, key):
            self.linear = eqx.nn.Linear(3, 2, key=key)
            self.index = eqx.nn.StateIndex(jax.numpy.zeros(()))

        def __call__(self, x, state):
            count = state.get(self.index) + 1
            return self.linear(x) * count, state.set(self.index, count)

    module, state = eqx.nn.make_with_state(Counting)(KEY)
    text = r"with a module, Counting\. Pass the module alone, .* `y, state = layer\(x, state\)`"
    with pytest.raises(ArgumentError, match=text):
        jax2torch(container((module, state)), **options)
    with pytest.raises(ArgumentError, match=r"with a function, tanh\. .*`bridge\.Functional\(fun"):
        jax2torch(container((jax.numpy.tanh, X)), **options)
    layer = jax2torch(module)
    y, new = layer(tensor(X[0]), state)
    torch.testing.assert_close(layer(tensor(X[0]), new)[0], 2 * y)


def test_a_module_without_values():
    layer = jax2torch(eqx.filter_eval_shape(eqx.nn.MLP, 3, 2, 4, 1, key=KEY))
    assert {x.device.type for x in layer.parameters()} == {"meta"}
    model = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    layer.to_empty(device="cpu").load_state_dict(jax2torch(model).state_dict())
    np.testing.assert_allclose(layer(tensor(X[0])).detach(), model(X[0]), rtol=1e-5)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(way):
    layer = jax2torch(Net(), method=over_examples).eval()
    twin = way(layer)
    torch.testing.assert_close(twin(tensor(X)), layer(tensor(X)))
    assert twin.linear.weight.data_ptr() != layer.linear.weight.data_ptr()
    assert len(pickle.dumps(jax2torch(eqx.nn.Linear(100, 100, key=KEY))._pure)) < 10_000


def test_one_trace_for_each_mode_and_shape():
    traces = []

    class Counting(eqx.Module):
        net: Net

        def __call__(self, x):
            traces.append(x.shape)
            return jax.vmap(self.net)(x)

    layer = jax2torch(eqx.nn.inference_mode(Counting(Net())))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(4):
        (layer(tensor(X)) ** 2).sum().backward()
        optimizer.step()
    layer.load_state_dict(layer.state_dict())
    copy.deepcopy(layer)(tensor(X))
    assert len(traces) == 1
    layer(tensor(X[:2]))
    assert len(traces) == 2


def test_complex_parameters_have_gradients_as_in_torch():
    class Wave(eqx.Module):
        w: jax.Array

        def __call__(self, x):
            return (x * jax.numpy.exp(self.w)).sum()

    model = Wave(jax.numpy.array([0.1 + 0.2j, 0.3 - 0.1j, 0.5j]))
    layer, w = jax2torch(model), tensor(model.w).requires_grad_()
    layer(tensor(X)).abs().backward()
    (tensor(X) * w.exp()).sum().abs().backward()
    torch.testing.assert_close(layer.w.grad, w.grad)


def multiply(w, x, *, shift):
    return w * x + shift


@jax.tree_util.register_pytree_with_keys_class
class Scale:
    def __init__(self, w, training=True):
        self.w, self.training = w, training

    def __call__(self, x):
        return self.w * x if self.training else x

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("w"), self.w)], self.training

    @classmethod
    def tree_unflatten(cls, training, children):
        return cls(*children, training)


def test_other_callable_pytrees():
    w = jax.numpy.array([1.0, 2.0, 3.0])
    partial = jax.tree_util.Partial(multiply, w, shift=2 * w)
    for model, count in ((partial, 2), (Scale(w), 1), (eqx.Partial(multiply, w, shift=1), 1)):
        layer = jax2torch(model)
        layer(tensor(X)).sum().backward()
        assert len([*layer.parameters()]) == count
        np.testing.assert_allclose(layer(tensor(X)).detach(), model(X), rtol=1e-6)
        np.testing.assert_allclose(next(layer.parameters()).grad, X.sum(0), rtol=1e-5)
        assert type(to_jax(layer)) is type(model)
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(jax2torch(partial)))(tensor(X)), jax2torch(partial)(tensor(X))
    )


def test_a_mode_that_cannot_be_set_is_refused():
    class Static(eqx.Module):
        w: jax.Array
        inference: bool = eqx.field(static=True)

        def __call__(self, x):
            return x if self.inference else self.w * x

    for model in (Static(jax.numpy.ones(3) * 2, inference=False), Scale(jax.numpy.ones(3) * 2)):
        layer = jax2torch(model)
        torch.testing.assert_close(layer(tensor(X)), 2 * tensor(X))
        with pytest.raises(ArgumentError, match=r"in a static field, which train.* cannot set"):
            layer.eval()(tensor(X))
    assert not jax2torch(Static(jax.numpy.ones(3), inference=True)).training


def test_refusals():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Keyed:
        key: jax.Array

        def __call__(self, x):
            return x + jax.random.normal(self.key, x.shape)

    class Coder(eqx.Module):
        linear: eqx.nn.Linear

        def encode(self, x):
            return self.linear(x)

    with pytest.raises(ArgumentError, match="'key' of Keyed is a key of random numbers"):
        jax2torch(Keyed(KEY))
    coder = Coder(eqx.nn.Linear(3, 4, key=KEY))
    assert jax2torch(coder)(tensor(X[0]), method="encode").shape == (4,)
    with pytest.raises(ArgumentError, match="Coder has no `__call__`"):
        jax2torch(coder)(tensor(X[0]))
    twice = jax.tree_util.Partial(lambda tree, x: x, {"a.b": X, "a": {"b": X}})
    with pytest.raises(ArgumentError, match="two arrays of Partial have the name"):
        jax2torch(twice)
    with pytest.raises(ArgumentError, match=r"method of MLP.*`jax2torch\(module\)`"):
        jax2torch(functools.partial(eqx.nn.MLP(3, 2, 4, 1, key=KEY).__call__))
