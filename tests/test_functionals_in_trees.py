"""A Functional in trees of JAX, where its parameters must not be lost."""

import copy
import operator
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bridge import ArgumentError, Functional, torch2jax
from tests.tensors import close

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
nnx = pytest.importorskip("flax.nnx")
jnp = jax.numpy
nn = torch.nn

X = np.random.default_rng(4).normal(size=(6, 3)).astype("float32")


@pytest.fixture
def backbone():
    torch.manual_seed(6)
    return nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))


class Model(eqx.Module):
    net: object
    scale: jax.Array

    def __call__(self, x):
        return self.net.apply(self.net.params, self.net.buffers, x)[0] * self.scale


class ModelWithParameters(eqx.Module):
    net: object
    params: dict

    def __call__(self, x):
        return self.net.apply(self.params, self.net.buffers, x)[0]


class ModelWithStaticFunction(ModelWithParameters):
    net: object = eqx.field(static=True)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: eqx.filter_grad(lambda model: model(X).sum())(model),
        lambda model: eqx.filter_jit(model)(X),
        lambda model: eqx.combine(*eqx.partition(model, eqx.is_array))(X),
        lambda model: jax.tree.map(lambda x: x, model)(X),
        lambda model: pickle.loads(pickle.dumps(jax.tree.map(lambda x: x, model)))(X),
    ],
)
def test_bare_functional_in_a_model_is_refused(backbone, use):
    model = Model(torch2jax(backbone), jnp.ones(2))
    with pytest.raises(ArgumentError, match=r"torch2jax Sequential.*Store `net.to_equinox\(\)`"):
        use(model)
    close(model(X), backbone(torch.tensor(X)))


def test_functional_as_an_argument_of_grad_is_refused(backbone):
    with pytest.raises(TypeError, match=r"store net.to_equinox\(\)"):
        jax.grad(lambda net: net.apply(net.params, net.buffers, X)[0].sum())(torch2jax(backbone))


def test_functional_where_it_does_no_harm(backbone):
    net = torch2jax(backbone)
    expected = backbone(torch.tensor(X))
    model = Model(net, jnp.ones(2))
    close(copy.deepcopy(model)(X), expected)
    assert len(jax.tree.leaves(model)) == 2
    close(jax.jit(lambda x: net.apply(net.params, net.buffers, x)[0])(X), expected)
    call = jax.jit(lambda net, x: net.apply(net.params, net.buffers, x)[0], static_argnums=0)
    close(call(net, X), expected)
    partial = jax.tree_util.Partial(net.apply, net.params, net.buffers)
    close(jax.jit(lambda f: f(X)[0])(partial), expected)
    close(pickle.loads(pickle.dumps(net)).params["0.bias"], net.params["0.bias"])


@pytest.mark.parametrize("kind", [ModelWithParameters, ModelWithStaticFunction])
def test_functional_with_its_parameters_beside_it(backbone, kind):
    net = torch2jax(backbone)
    model = kind(net=net, params=net.params)
    traces = []

    @eqx.filter_jit
    def step(model):
        traces.append(1)
        gradients = eqx.filter_grad(lambda model: model(X).sum())(model)
        return eqx.apply_updates(model, gradients), gradients

    model, gradients = step(model)
    backbone(torch.tensor(X)).sum().backward()
    close(gradients.params["0.weight"], backbone[0].weight.grad)
    step(model)
    step(model)
    assert len(traces) == 1


def test_bare_functional_in_a_model_of_nnx_is_refused(backbone):
    class Model(nnx.Module):
        def __init__(self, net):
            self.net = net
            self.scale = nnx.Param(jnp.ones(2))

        def __call__(self, x):
            return self.net.apply(self.net.params, self.net.buffers, x)[0] * self.scale

    model = Model(torch2jax(backbone))
    for transform in (nnx.grad, nnx.jit):
        with pytest.raises(ArgumentError, match=r"Store `net.to_equinox\(\)` or `net.to_nnx\(\)`"):
            transform(lambda model: model(X).sum())(model)


def test_functional_with_its_parameters_beside_it_in_nnx(backbone):
    class Model(nnx.Module):
        def __init__(self, net):
            self.net, self.buffers = net, nnx.data(net.buffers)
            self.params = nnx.data({name: nnx.Param(x) for name, x in net.params.items()})

        def __call__(self, x):
            params = {name: x[...] for name, x in self.params.items()}
            return self.net.apply(params, self.buffers, x)[0]

    model = Model(torch2jax(backbone))
    gradients = nnx.jit(nnx.grad(lambda model: model(X).sum()))(model)
    backbone(torch.tensor(X)).sum().backward()
    close(gradients["params"]["0.weight"][...], backbone[0].weight.grad)
    assert len(jax.tree.leaves(nnx.state(model))) == 4


class Subclass(Functional):
    pass


@pytest.mark.parametrize("kind", [Functional, Subclass])
def test_function_of_jax_with_weights(kind):
    model = Model(kind(lambda params, buffers, x: (params * x, buffers), jnp.ones(3), {}), 2.0)
    close(model(X), 2 * X)
    with pytest.raises(ArgumentError, match="no leaves of that tree"):
        eqx.filter_grad(lambda model: model(X).sum())(model)


def test_subclass_that_is_a_pytree_of_its_own():
    @jax.tree_util.register_pytree_node_class
    class Tree(Functional):
        def tree_flatten(self):
            return (self.params,), self.apply

        @classmethod
        def tree_unflatten(cls, apply, children):
            return cls(apply, *children)

    model = Model(Tree(lambda params, buffers, x: (params * x, buffers), jnp.ones(3)), 2.0)
    gradients = eqx.filter_grad(lambda model: model(X).sum())(model)
    close(gradients.net.params, 2 * X.sum(0))


def test_what_another_process_unpickles_is_watched(backbone, tmp_path):
    functional, net = Functional(operator.mul, np.ones(3, "float32")), torch2jax(backbone)
    models = functional, net.to_nnx(), net.to_equinox()
    (tmp_path / "models").write_bytes(pickle.dumps(models))
    program = f"""
import jax, pickle, pathlib, numpy
functional, *models = pickle.loads(pathlib.Path({str(tmp_path / "models")!r}).read_bytes())
x = numpy.array({X.tolist()}, "float32")
print(*[model(x).sum() for model in models])
try:
    jax.tree.map(lambda x: x, functional).params
except TypeError as error:
    print(type(error).__name__)
"""
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    *sums, error = output.split()
    close([float(x) for x in sums], [backbone(torch.tensor(X)).sum().item()] * 2)
    assert error == "ArgumentError"
