"""Containers that torch, JAX, Equinox or Flax know, as arguments and results."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from bridge import jax2torch
from tests.trees import A, B, leaf


def test_node_of_torch_is_an_argument_and_a_result(into_torch, torch):
    pytree = pytest.importorskip("torch.utils._pytree")

    class Node:
        def __init__(self, a, b, power):
            self.a, self.b, self.power = a, b, power

    pytree.register_pytree_node(
        Node, lambda n: ([n.a, n.b], n.power), lambda xs, power: Node(*xs, power)
    )
    source, wrap = into_torch
    a, b = leaf(torch, A), leaf(torch, A * 2)
    found = wrap(lambda n: Node(source.xp.sin(n.b), n.a**n.power, n.power + 1))(Node(a, b, 3))
    assert isinstance(found, Node)
    assert found.power == 4
    torch.testing.assert_close((found.a, found.b), (torch.sin(b), a**3))
    gradients = torch.autograd.grad((found.a + found.b).sum(), (a, b))
    torch.testing.assert_close(gradients, (3 * a.detach() ** 2, torch.cos(b.detach())))


def test_node_of_jax_is_an_argument_and_a_result(jax, torch):
    class Node:
        def __init__(self, a, b, power):
            self.a, self.b, self.power = a, b, power

    jax.tree_util.register_pytree_node(
        Node, lambda n: ((n.a, n.b), n.power), lambda power, xs: Node(*xs, power)
    )
    a, b = leaf(torch, A), leaf(torch, A * 2)
    there = jax2torch(lambda n: Node(jax.numpy.sin(n.b), n.a**n.power, n.power + 1))
    found = there(Node(a, b, 3))
    assert isinstance(found, Node)
    assert found.power == 4
    torch.testing.assert_close((found.a, found.b), (torch.sin(b), a**3))
    gradients = torch.autograd.grad((found.a + found.b).sum(), (a, b))
    torch.testing.assert_close(gradients, (3 * a.detach() ** 2, torch.cos(b.detach())))


def test_metadata_of_a_node_of_jax_is_part_of_the_key(jax, torch):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Layer:
        weight: Any
        power: int = dataclasses.field(metadata={"static": True})

    there = jax2torch(lambda layer: layer.weight**layer.power)
    x = torch.tensor(A)
    for power in (2, 3, 2):
        torch.testing.assert_close(there(Layer(x, power)), x**power)


def test_equinox_module_is_an_argument(jax, torch):
    equinox = pytest.importorskip("equinox")

    class Affine(equinox.Module):
        weight: Any
        bias: Any
        activation: Any = equinox.field(static=True)

        def __call__(self, x):
            return self.activation(self.weight @ x + self.bias)

    weight, bias, x = leaf(torch, B), leaf(torch, B[:, 1]), leaf(torch, A)
    found = jax2torch(lambda m, x: m(x))(Affine(weight, bias, jax.numpy.tanh), x)
    wanted = torch.tanh(weight @ x + bias)
    cotangent = torch.tensor([0.7, -1.3])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, (weight, bias, x), cotangent),
        torch.autograd.grad(wanted, (weight, bias, x), cotangent),
    )


def test_equinox_module_is_a_result(jax, torch):
    equinox = pytest.importorskip("equinox")

    class Scaled(equinox.Module):
        weight: Any
        name: str = equinox.field(static=True)

    x = leaf(torch, A)
    found = jax2torch(lambda x: Scaled(jax.numpy.sin(x), "sine"))(x)
    assert isinstance(found, Scaled)
    assert found.name == "sine"
    torch.testing.assert_close(found.weight, torch.sin(x))
    torch.testing.assert_close(torch.autograd.grad(found.weight.sum(), x)[0], torch.cos(x.detach()))


def test_equinox_layer_of_jax_arrays_is_an_argument(jax, torch):
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    x = leaf(torch, A)
    found = jax2torch(lambda m, x: m(x))(model, x)
    np.testing.assert_allclose(found.detach().numpy(), model(A), rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    wanted = jax.grad(lambda x: model(x).sum())(A)
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-5)


def test_flax_struct_is_an_argument_and_a_result(jax, torch):
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class State:
        a: Any
        step: int = struct.field(pytree_node=False)

    x = leaf(torch, A)
    found = jax2torch(lambda s: s.replace(a=jax.numpy.sin(s.a) * s.step, step=s.step + 1))(
        State(x, 4)
    )
    assert isinstance(found, State)
    assert found.step == 5
    torch.testing.assert_close(found.a, 4 * torch.sin(x))
    (gradient,) = torch.autograd.grad(found.a.sum(), x)
    torch.testing.assert_close(gradient, 4 * torch.cos(x.detach()))


def test_jax_partial_is_an_argument(jax, torch):
    """Its arrays are leaves, unlike those in a closure."""
    x, weight = torch.tensor(A), leaf(torch, A * 2)
    partial = jax.tree_util.Partial(lambda w, x: w * jax.numpy.sin(x), weight)
    found = jax2torch(lambda call, x: call(x))(partial, x)
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(gradient, torch.sin(x))


def test_result_of_torch_is_an_argument(into_torch, torch):
    """`torch.max` returns a structure sequence."""
    x = leaf(torch, B)
    extreme = torch.max(x, 1)
    found = into_torch[1](lambda r: r.values * 2)(extreme)
    torch.testing.assert_close(found, extreme.values * 2)
