"""Modules of other frameworks in torch: parameters, buffers, modes and names."""

import pytest

from bridge import ArgumentError, Functional, jax2torch
from tests.bridged_layers import (
    KINDS,
    SOURCES,
    arrays,
    batch,
    close,
    make_functional,
    pair,
    weights,
)

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def layer(kind):
    return kind.make()


def test_every_source_of_modules_has_a_kind():
    from bridge import _registry

    sources = {s for s in SOURCES if _registry.source(s).make_key is not None}
    assert sources <= {kind.source for kind in KINDS.values()}


@pytest.mark.parametrize("training", [True, False])
def test_values_gradients_and_buffers_are_those_of_torch(kind, layer, training):
    layer.train(training)
    x = batch().requires_grad_()
    for _ in range(3):
        params, buffers = arrays(layer)
        ours, (expected, new) = layer(x), kind.reference(params, buffers, x, training)
        close(ours, expected)
        close(dict(layer.named_buffers()), new)
        gradients = torch.autograd.grad((ours**3).sum(), [x, *layer.parameters()])
        close(gradients, torch.autograd.grad((expected**3).sum(), [x, *params.values()]))


def test_parameters_are_parameters_and_own_their_memory(layer):
    for parameter in layer.parameters():
        assert isinstance(parameter, torch.nn.Parameter)
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.is_contiguous()
    assert {*layer.state_dict()} == {
        name for name, _ in [*layer.named_parameters(), *layer.named_buffers()]
    }
    memory = [x.data_ptr() for x in layer.state_dict().values()]
    assert len({*memory}) == len(memory)


def test_arrays_are_copied():
    original = jnp.asarray(weights(3, 3))
    before = original.copy()
    layer = jax2torch(Functional(lambda params, x: x @ params["w"], {"w": original}))
    with torch.no_grad():
        layer.w.zero_()
    assert (original == before).all()


def test_arrays_of_any_layout_become_contiguous():
    import numpy as np

    transposed = np.asfortranarray(weights(3, 4))
    layer = jax2torch(Functional(lambda params, x: x @ params["w"], {"w": transposed}))
    assert layer.w.is_contiguous()
    close(layer(batch()), batch() @ torch.tensor(transposed))


def test_groups_are_submodules():
    layer = KINDS["equinox"].make()
    assert [name for name, _ in layer.named_modules()] == ["", "layers", "layers.0", "layers.1"]
    layer.get_submodule("layers.0").requires_grad_(False)
    layer(batch()).sum().backward()
    trained = {name for name, x in layer.named_parameters() if x.grad is not None}
    assert trained == {"layers.1.weight", "layers.1.bias"}
    seen = []
    layer.apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Group", "Group", "Group", "BridgedModule"]


def test_a_group_may_be_replaced():
    first, second = KINDS["equinox"].make(0), KINDS["equinox"].make(1)
    params, _ = arrays(first)
    first(batch())
    first.layers.add_module("1", second.get_submodule("layers.1"))
    params |= {name: x for name, x in second.named_parameters() if name.startswith("layers.1")}
    close(first(batch()), KINDS["equinox"].reference(params, {}, batch(), True)[0])


def test_buffers_are_written_in_place_and_only_in_training():
    layer = make_functional()
    addresses = {name: x.data_ptr() for name, x in layer.named_buffers()}
    tensors = dict(layer.named_buffers())
    for _ in range(3):
        layer(batch()).sum().backward()
    versions = {name: x._version for name, x in layer.named_buffers()}
    assert versions == {"norm.mean": 3, "norm.var": 3, "norm.count": 3, "norm.table": 0}
    layer.eval()
    layer(batch())
    assert {name: x._version for name, x in layer.named_buffers()} == versions
    assert {name: x.data_ptr() for name, x in layer.named_buffers()} == addresses
    assert all(x is tensors[name] for name, x in layer.named_buffers())
    assert not any(x.requires_grad for x in layer.buffers())


def test_two_forwards_before_a_backward():
    layer = make_functional()
    params, buffers = arrays(layer)
    loss = (layer(batch()) ** 2).sum() + (layer(2 * batch()) ** 3).sum()
    expected = total(params, buffers)
    close(loss, expected)
    loss.backward()
    expected.backward()
    close({n: x.grad for n, x in layer.named_parameters()}, {n: x.grad for n, x in params.items()})


def total(params, buffers):
    reference = KINDS["functional"].reference
    first, buffers = reference(params, buffers, batch(), True)
    second, _ = reference(params, buffers, 2 * batch(), True)
    return (first**2).sum() + (second**3).sum()


def halving(params, buffers, x, *, training, mode):
    """A function that uses two buffers, and changes the one that `mode` names."""
    y = jnp.sum(params["w"] * buffers["a"] * x) + jnp.sum(params["w"] ** 2 * buffers["b"] * x)
    return y, {**buffers, **({mode: buffers[mode] / 2} if training else {})}


@pytest.mark.parametrize("jit", [True, False])
def test_a_backward_pass_sees_buffers_before_the_call(jit):
    arrays_of = lambda *names: {name: jnp.asarray(weights(3) + i) for i, name in enumerate(names)}
    functional = Functional(halving, arrays_of("w"), arrays_of("a", "b"))
    layer = jax2torch(functional, static_argnames=["mode"], jit=jit)
    x = torch.tensor([0.3, -1.2, 0.7])
    for mode in ("a", "b", "b", "a"):
        (a, b), w = [y.clone() for y in layer.buffers()], layer.w.detach()
        layer.zero_grad()
        output = layer(x, mode=mode)
        close(dict(layer.named_buffers()), {"a": a, "b": b, mode: {"a": a, "b": b}[mode] / 2})
        output.backward()
        close(layer.w.grad, a * x + 2 * w * b * x)


def test_buffers_that_do_not_change_are_not_copied():
    def call(params, buffers, x, *, training):
        return params["w"] * buffers["table"] * x, {**buffers, "n": buffers["n"] + training}

    buffers = {"table": jnp.ones(10_000), "n": jnp.array(0)}
    layer = jax2torch(Functional(call, {"w": jnp.array(2.0)}, buffers))
    for _ in range(2):
        output = layer(torch.ones(10_000))
        saved = {x.data_ptr() for x in output.grad_fn.saved_tensors}
        assert layer.table.data_ptr() in saved


def test_modes_are_read_on_each_call():
    layer = make_functional()
    model = torch.nn.Sequential(layer)
    reference = KINDS["functional"].reference
    for training in (True, False, True):
        model.train(training)
        params, buffers = arrays(layer)
        close(model(batch()), reference(params, buffers, batch(), training)[0])


def test_parts_have_modes_of_their_own():
    eqx = pytest.importorskip("equinox")

    class Two(eqx.Module):
        weight: jax.Array
        first: eqx.nn.Dropout
        second: eqx.nn.Dropout

        def __call__(self, x, *, key):
            y = self.first(jnp.ones(40), key=key)
            return self.weight * x, y, self.second(jnp.ones(40), key=key)

    layer = jax2torch(Two(jnp.ones(3), eqx.nn.Dropout(0.5), eqx.nn.Dropout(0.5, inference=True)))
    assert (layer.training, layer.first.training, layer.second.training) == (True, True, False)

    def dropped():
        return tuple(bool((y == 0).any()) for y in layer(batch()[0])[1:])

    assert dropped() == (True, False)
    layer.first.eval()
    layer.second.train()
    assert dropped() == (False, True)
    layer.eval()
    assert dropped() == (False, False)
    layer.train()
    assert dropped() == (True, True)


def test_other_methods_have_the_same_parameters():
    layer = jax2torch(pair())
    close(layer(batch(), method="twice"), 2 * layer(batch()))
    with pytest.raises(ArgumentError, match="Pair has no method 'thrice'"):
        layer(batch(), method="thrice")


def test_names_of_modules_get_an_underscore():
    names = ["type", "half", "forward", "training", "_parameters", "_boxed_function", "weight", "T"]
    params = {name: jnp.asarray(weights(3, seed=i)) for i, name in enumerate(names)}
    nested = {"state_dict": params, "eval": jnp.ones(3)}
    layer = jax2torch(Functional(add_up, nested))
    assert [name for name, _ in layer.named_parameters()] == [
        "eval_",
        *(f"state_dict_.{name}" for name in ["type_", "half_", "forward_", "training_"]),
        *(f"state_dict_.{name}" for name in ["_parameters_", "_boxed_function_", "weight", "T"]),
    ]
    layer(batch()).sum().backward()
    for parameter in layer.parameters():
        close(parameter.grad, batch().sum(0))
    back = make_back(layer)
    assert {*back.params} == {"state_dict", "eval"}
    assert [*back.params["state_dict"]] == names


def add_up(params, x):
    return x * sum(jax.tree.leaves(params))


def make_back(layer):
    from bridge import to_jax

    return to_jax(layer)


@pytest.mark.parametrize(
    ("params", "buffers", "name"),
    [
        ({"type": 0, "type_": 0}, None, "type_"),
        ({"a": 0}, {"a": 0}, "a"),
        ({"a": {"b": 0}}, {"a": 0}, "a"),
        ({"a": 0}, {"a": {"b": 0}}, "a.b"),
        ({"a": {"b": 0}, "a.b": 0}, None, "a.b"),
    ],
)
def test_two_arrays_of_one_name_are_refused(params, buffers, name):
    params, buffers = jax.tree.map(lambda _: jnp.ones(2), (params, buffers))
    with pytest.raises(ArgumentError, match=f"two arrays .* '{name}'. Rename"):
        jax2torch(Functional(lambda params, buffers, x: (x, buffers), params, buffers))


def test_numbers_among_parameters_are_refused():
    with pytest.raises(
        ArgumentError, match=r"'a\.1' among the params is a float, but not an array"
    ):
        jax2torch(Functional(lambda params, x: x, {"a": [jnp.ones(2), 3.0]}))


@pytest.mark.parametrize("name", ["a..b", "."])
def test_empty_names_are_refused(name):
    with pytest.raises(ArgumentError, match=f"named '{name}', and torch takes no empty names"):
        jax2torch(Functional(lambda params, x: x, {name: jnp.ones(2), "c": jnp.ones(2)}))


def test_repr_tells_the_class_and_the_way_of_its_derivatives():
    layer = KINDS["equinox"].make()
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), layer)
    assert "(1): jax2torch(MLP)\n" in repr(model)
    model(batch()).sum().backward()
    assert repr(layer).startswith("jax2torch(MLP, derivatives so far: ")


def test_complex_parameters_have_gradients_as_torch_has_them():
    w = jnp.array([1 + 2j, 3 - 1j, -0.5 + 0.3j])
    layer = jax2torch(Functional(lambda params, x: jnp.abs(params["w"] * x) ** 3, {"w": w}))
    layer(batch()).sum().backward()
    twin = torch.tensor([1 + 2j, 3 - 1j, -0.5 + 0.3j], requires_grad=True)
    ((twin * batch()).abs() ** 3).sum().backward()
    close(layer.w.grad, twin.grad)
