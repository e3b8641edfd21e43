"""`BridgedFunction.vmap`: a batch by the vmap of the function's own framework."""

import pickle

import numpy as np
import pytest

from bridge import ArgumentError, jax2torch, mlx2jax, numpy2torch, torch2jax
from bridge.rules import FiniteDifference

torch = pytest.importorskip("torch")


def noisy(x, *, rng):
    return x.sum() + rng.normal()


@pytest.fixture
def jnp():
    return pytest.importorskip("jax.numpy")


def test_arguments_along_any_axis_or_shared(jnp):
    dot = jax2torch(lambda x, w: jnp.tanh(x) @ w)
    x, w = torch.randn(5, 3), torch.randn(3, requires_grad=True)
    expected = torch.tanh(x) @ w
    torch.testing.assert_close(dot.vmap((0, None))(x, w), expected)
    torch.testing.assert_close(dot.vmap(in_dims=(-1, None))(x.T, w), expected)
    dot.vmap((0, None))(x, w).sum().backward()
    torch.testing.assert_close(w.grad, torch.tanh(x).sum(0))


def test_batches_of_batches(jnp):
    scale = jax2torch(lambda x, s: jnp.sin(x) * s)
    x, s = torch.randn(2, 3, 4), torch.randn(3)
    y = scale.vmap((0, 0)).vmap((0, None))(x, s)
    torch.testing.assert_close(y, torch.sin(x) * s[:, None])


def test_containers_have_axes_of_their_own(jnp):
    product = jax2torch(lambda p: p["a"] * p["b"])
    a, b = torch.arange(3.0), torch.tensor(2.0)
    assert product.vmap(({"a": 0, "b": None},))({"a": a, "b": b}).tolist() == [0, 2, 4]


def test_keywords_are_shared(jnp):
    scale = jax2torch(lambda x, s: x * s)
    assert scale.vmap()(torch.ones(3), s=torch.tensor(2.0)).tolist() == [2, 2, 2]


def test_in_one_compiled_graph(jnp):
    batched = jax2torch(lambda x: jnp.sin(x).sum()).vmap()
    x = torch.randn(4, 2, requires_grad=True)
    y = torch.compile(lambda x: batched(x) * 2, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(y, torch.sin(x).sum(1) * 2)


def test_of_mlx_in_jax(jnp):
    mx, jax = pytest.importorskip("mlx.core"), pytest.importorskip("jax")
    squares = mlx2jax(lambda x: mx.sum(x * x)).vmap()
    x = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: squares(x).sum()))(x), 2 * x)


def test_every_example_has_a_key_of_its_own(jnp):
    jax = pytest.importorskip("jax")
    drawing = torch2jax(lambda x: x + torch.randn(()))
    keys = jax.random.split(jax.random.key(1), 3)
    batch = drawing.vmap()(jnp.zeros(3), rng=keys)
    alone = [drawing(jnp.zeros(()), rng=key) for key in keys]
    assert batch.tolist() == [float(y) for y in alone]
    assert len({*batch.tolist()}) == 3


def test_without_a_key_torch_draws_one_for_each_example():
    batched = numpy2torch(noisy, gradient=FiniteDifference()).vmap().vmap()
    torch.manual_seed(0)
    y = batched(torch.zeros(2, 3, 2))
    assert len({*y.ravel().tolist()}) == 6
    torch.manual_seed(0)
    assert torch.equal(batched(torch.zeros(2, 3, 2)), y)


def test_it_is_made_once_and_can_be_pickled():
    sine = numpy2torch(np.sin)
    assert sine.vmap() is sine.vmap()
    assert sine.vmap() is not sine.vmap((0,))
    other = pickle.loads(pickle.dumps(sine.vmap()))
    torch.testing.assert_close(other(torch.ones(2)), torch.ones(2).sin())


@pytest.mark.parametrize(
    ("in_dims", "text"),
    [
        ((0, 0), "different sizes: x has 5, y has 3"),
        (None, "over no argument"),
        (2, "without axis 2"),
        ((0,), "does not match"),
    ],
)
def test_errors(in_dims, text):
    product = numpy2torch(lambda x, y: x @ y)
    with pytest.raises(ArgumentError, match=text):
        product.vmap(in_dims)(torch.ones(5, 3), torch.ones(3))
