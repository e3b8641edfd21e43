"""Modules that are passed where a function is expected, so that nothing would train them."""

import functools
import re

import numpy as np
import pytest

import bridge
from bridge import ArgumentError, _registry
from tests.kits import kit

INTO = [d for d in _registry.directions() if d[0] == "jax"]
OTHERS = ")`, or a function of it"


def equinox_functions():
    jax = pytest.importorskip("jax")
    eqx = pytest.importorskip("equinox")

    class Coder(eqx.Module):
        linear: eqx.nn.Linear

        def encode(self, x):
            return self.linear(x)

    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    return {
        "call": (model.__call__, ")"),
        "method": (Coder(model.layers[0]).encode, ', method="encode")'),
        "partial": (functools.partial(model), OTHERS),
        "argument of partial": (functools.partial(lambda model, x: model(x), model), OTHERS),
        "jit": (jax.jit(model), OTHERS),
        "vmap": (jax.vmap(model), OTHERS),
        "filter_jit": (eqx.filter_jit(model), OTHERS),
        "filter_vmap": (eqx.filter_vmap(model), OTHERS),
    }


def flax_functions():
    jax = pytest.importorskip("jax")
    nnx, linen = pytest.importorskip("flax.nnx"), pytest.importorskip("flax.linen")
    model, dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), linen.Dense(2)
    bound = dense.bind(dense.init(jax.random.key(0), np.ones(3, "float32")))
    embed = nnx.Embed(3, 2, rngs=nnx.Rngs(0))
    return {
        "call": (model.__call__, ")"),
        "method": (embed.attend, ', method="attend")'),
        "partial": (functools.partial(model), OTHERS),
        "nnx.jit": (nnx.jit(model), OTHERS),
        "bound call": (bound.__call__, ")"),
        "partial of a bound one": (functools.partial(bound), OTHERS),
    }


def own_functions():
    jax = pytest.importorskip("jax")

    @jax.tree_util.register_pytree_node_class
    class Scale:
        def __init__(self, w):
            self.w = w

        def __call__(self, x):
            return self.w * x

        def tree_flatten(self):
            return (self.w,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    scale = Scale(jax.numpy.ones(3))
    partial = jax.tree_util.Partial(lambda w, x: w * x, jax.numpy.ones(3))
    return {"call": (scale.__call__, ")"), "jit": (jax.jit(partial), OTHERS)}


@pytest.mark.parametrize("direction", INTO, ids="2".join)
@pytest.mark.parametrize("functions", [equinox_functions, flax_functions, own_functions])
def test_functions_made_of_modules_of_jax_are_refused(direction, functions):
    kit(direction[1])
    name = "2".join(direction)
    for label, (fn, option) in functions().items():
        instead = re.escape(f"Pass the module, `{name}(module{option}")
        with pytest.raises(ArgumentError, match=f"an object with parameters.*{instead}"):
            raise AssertionError(f"{label}: {getattr(bridge, name)(fn)}")


@pytest.mark.parametrize("method", ["encode", lambda model, x: model.encode(x)])
def test_what_is_advised_trains_modules(method):
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    eqx = pytest.importorskip("equinox")

    class Coder(eqx.Module):
        linear: eqx.nn.Linear

        def encode(self, x):
            return jax.numpy.tanh(self.linear(x))

    model = Coder(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    x = np.array([0.3, -1.2, 0.7], "float32")
    layer = bridge.jax2torch(model, method=method)
    layer(torch.tensor(x)).sum().backward()
    true = eqx.filter_grad(lambda model: model.encode(x).sum())(model)
    np.testing.assert_allclose(layer.linear.weight.grad, true.linear.weight, rtol=1e-5)


def test_functions_that_hold_arrays_are_constants_as_in_jax():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    eqx, linen = pytest.importorskip("equinox"), pytest.importorskip("flax.linen")
    model, w = eqx.nn.Linear(3, 3, key=jax.random.key(0)), jax.numpy.arange(3.0)
    x = np.array([0.3, -1.2, 0.7], "float32")
    dense = linen.Dense(2)
    params = dense.init(jax.random.key(0), x)
    for fn in (
        lambda x: model(x),
        functools.partial(lambda w, x: w * x, w),
        functools.partial(dense.apply, params),
        eqx.filter_jit(lambda x: w * x),
        eqx.nn.Lambda(jax.numpy.tanh),
    ):
        found = bridge.jax2torch(fn)(torch.tensor(x)).numpy()
        np.testing.assert_allclose(found, fn(x), rtol=1e-5)


def test_objects_that_are_called_are_functions():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")

    class Sine:
        def __init__(self):
            self.training, self.w = True, jax.numpy.ones(3)

        def __call__(self, x):
            return jax.numpy.sin(self.w * x)

    x = torch.tensor([0.3, -1.2, 0.7])
    sine = bridge.jax2torch(Sine())
    assert isinstance(sine, bridge.BridgedFunction)
    torch.testing.assert_close(sine(x), x.sin())


@pytest.mark.parametrize("source", ["torch", "mlx"])
def test_modules_in_a_model_of_equinox_get_gradients_by_a_field_for_them(source):
    jax = pytest.importorskip("jax")
    eqx = pytest.importorskip("equinox")
    kit(source)
    nn = pytest.importorskip({"torch": "torch.nn", "mlx": "mlx.nn"}[source])
    net, x = getattr(bridge, f"{source}2jax")(nn.Linear(3, 2)), np.array([0.3, -1.2, 0.7], "f4")

    class Model(eqx.Module):
        params: dict
        net: object

        def __call__(self, x):
            return self.net.apply(self.params, self.net.buffers, x)[0].sum()

    gradients = eqx.filter_grad(lambda model: model(x))(Model(net.params, net))
    for name, found in gradients.params.items():
        np.testing.assert_allclose(found, [x, x] if "weight" in name else [1, 1], rtol=1e-6)
    assert not jax.tree.leaves(gradients.net)  # so the object alone would not be trained


def methods(nn):
    """Methods of a module, in torch and MLX alike, and what is made of them."""

    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def encode(self, x, *, scale=1.0):
            return scale * self.linear(x)

    coder = Coder()

    @functools.wraps(coder.encode)
    def wrapped(x):
        return coder.encode(x)

    return {
        "call": coder.linear.__call__,
        "method": coder.encode,
        "partial": functools.partial(coder.encode, scale=2.0),
        "wrapped": wrapped,
    }


@pytest.mark.parametrize("name", ["call", "method", "partial", "wrapped"])
@pytest.mark.parametrize("direction", [d for d in _registry.directions() if d[0] != "jax"])
def test_methods_of_modules_are_refused(direction, name):
    method = methods(pytest.importorskip(f"{direction[0]}.nn"))[name]
    text = "a method of (Coder|Linear): an object with parameters, which would be constants"
    with pytest.raises(ArgumentError, match=text) as raised:
        getattr(bridge, "2".join(direction))(method)
    option = "" if name == "call" else ', method="encode"'
    assert f"`{'2'.join(direction)}(module{option})`" in str(raised.value)


@pytest.mark.parametrize("direction", [d for d in _registry.directions() if d[0] == "torch"])
def test_methods_without_trained_parameters_are_functions(direction):
    """What torch itself would not train, and modules that are called with other parameters."""
    kit(direction[1])
    torch = pytest.importorskip("torch")
    wrap = getattr(bridge, "2".join(direction))
    linear = torch.nn.Linear(3, 2)
    x = torch.tensor([0.3, -1.2, 2.0])
    with torch.no_grad():
        expected = linear(x)
    call = functools.partial(torch.func.functional_call, linear, dict(linear.named_parameters()))
    frozen = torch.nn.Linear(3, 2).requires_grad_(False)
    frozen.load_state_dict(linear.state_dict())
    for fn in (call, frozen.forward, lambda x: linear(x)):
        np.testing.assert_allclose(
            np.asarray(wrap(fn)(getattr(bridge, f"to_{direction[1]}")(x))), expected, 1e-6
        )


@pytest.mark.parametrize("library", ["flax.nnx", "flax.linen", "equinox"])
def test_classes_and_modules_of_another_framework_are_refused(library):
    for framework in ("jax", "torch"):
        pytest.importorskip(framework)
    library = pytest.importorskip(library)
    kind = library.nn.Dropout if library.__name__ == "equinox" else library.Dropout
    with pytest.raises(ArgumentError, match=r"the class Dropout.*jax2torch\(Dropout\(...\)\)"):
        bridge.jax2torch(kind)
    with pytest.raises(ArgumentError, match=r"module of jax, Dropout. Did you mean jax2torch\?"):
        bridge.torch2jax(kind(0.5))
