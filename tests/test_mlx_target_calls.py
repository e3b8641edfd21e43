"""Calls from MLX: dtypes, trees, modules, keys, and functions that look at values."""

import numpy as np
import pytest

from bridge import ArgumentError
from bridge.testing import check_gradients

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optimizers  # noqa: E402

from bridge import jax2mlx, torch2mlx  # noqa: E402
from tests.mlx_transforms import inner  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])
FLOATS = [mx.float16, mx.bfloat16, mx.float32, mx.float64, mx.complex64]
INTEGERS = [mx.bool_, *(getattr(mx, f"{u}int{n}") for u in ("", "u") for n in (8, 16, 32, 64))]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 3)], ids=str)
def test_floats_of_any_shape(dtype, shape):
    x = mx.arange(float(np.prod(shape, dtype=int))).reshape(shape).astype(dtype) / 3
    with mx.stream(mx.cpu):
        found = mx.vjp(lambda x: [torch2mlx(lambda x: x * x * x)(x)], [x], [mx.ones_like(x)])
        expected = mx.vjp(lambda x: [x * x * x], [x], [mx.ones_like(x)])
    for y, want in zip(found[0] + found[1], expected[0] + expected[1], strict=True):
        assert (y.shape, y.dtype) == (want.shape, want.dtype)
        rough = dtype in (mx.float16, mx.bfloat16)
        precise = y.astype(mx.float32) if rough else y
        np.testing.assert_allclose(
            precise, want.astype(precise.dtype), rtol=1e-2 if rough else 1e-6
        )


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_go_through(dtype):
    large = {mx.int64: 2**60 + 1, mx.uint64: 2**62 + 1}.get(dtype, 1)
    n = mx.array([0, large], dtype=dtype)
    both = torch2mlx(lambda x, n: (x * 2, n.clone()))
    again = both(X, n)[1]
    assert (again.dtype, again.tolist()) == (dtype, n.tolist())
    assert inner(lambda x: both(x, n)[0])(X).tolist() == [2, 2, 2]
    assert mx.vmap(lambda n: both(X, n)[1])(n).tolist() == n.tolist()


def test_float64_keeps_its_digits():
    x = np.array([0.1, -1.7, 0.4])
    with mx.stream(mx.cpu):
        wide = mx.array(x, dtype=mx.float64)
        curvature = inner(inner(torch2mlx(torch.sin)))(wide)
    np.testing.assert_allclose(curvature, -np.sin(x), rtol=1e-14)


def test_trees_names_and_constants():
    @torch2mlx
    def f(tree, *, scale, offset=None):
        return {"a": tree["x"] * scale, "n": None, "rest": (tree["y"][0] + tree["y"][1], [offset])}

    tree = {"x": X, "y": [np.float32([1, 2, 3]), torch.tensor([4.0, 5.0, 6.0])]}
    found = f(tree, scale=2 * X, offset=X)
    assert found["n"] is None
    assert found["rest"][0].tolist() == [5, 7, 9]
    gradient = mx.grad(lambda t, **how: f(t, **how)["a"].sum(), argnames=["scale"], argnums=())
    tree["y"][1] = X
    assert gradient(tree, scale=X)[1]["scale"].tolist() == X.tolist()


class Net(nn.Module):
    """A layer whose activation is a function of another framework, or of MLX."""

    def __init__(self, activation):
        super().__init__()
        mx.random.seed(0)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)
        self.activation = activation

    def __call__(self, x):
        return self.last(self.activation(self.first(x)))


def test_networks_are_trained_with_it():
    def losses(activation):
        network, rate = Net(activation), optimizers.Adam(1e-2)
        x = mx.random.normal((32, 4), key=mx.random.key(1))
        loss = lambda network, x: ((network(x) - x.sum(1, keepdims=True)) ** 2).mean()
        step = nn.value_and_grad(network, loss)
        for _ in range(20):
            value, gradients = step(network, x)
            rate.update(network, gradients)
            mx.eval(network.parameters(), rate.state)
            yield value.item()

    found, expected = (list(losses(f)) for f in (torch2mlx(torch.tanh), mx.tanh))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found[-1] < found[0] / 2


def test_random_numbers_follow_from_a_key():
    dropout = torch2mlx(lambda x: torch.nn.functional.dropout(x, 0.5))
    ones = mx.ones((64,))
    with pytest.raises(ArgumentError, match="Pass a key, `rng=`"):
        dropout(ones)
    kept, other = dropout(ones, rng=mx.random.key(1)), dropout(ones, rng=mx.random.key(2))
    assert sorted({*kept.tolist()}) == [0, 2]
    assert kept.tolist() != other.tolist()
    assert dropout(ones, rng=mx.random.key(1)).tolist() == kept.tolist()
    slope = inner(lambda x: dropout(x, rng=mx.random.key(1)))
    assert slope(ones).tolist() == kept.tolist()
    assert inner(lambda x: slope(x) * x)(ones).tolist() == kept.tolist()
    keys, rows = mx.random.split(mx.random.key(3), 3), mx.ones((3, 64))
    each = [dropout(x, rng=key).tolist() for x, key in zip(rows, keys, strict=True)]
    mapped = lambda x, key: dropout(x, rng=key)
    assert mx.vmap(mapped)(rows, keys).tolist() == each
    assert mx.vmap(mx.grad(lambda *xs: mapped(*xs).sum()))(rows, keys).tolist() == each
    with pytest.raises(ArgumentError, match=r"array of keys, with data of shape \[2, 2\]"):
        dropout(ones, rng=mx.random.split(mx.random.key(0)))


def test_functions_that_look_at_values_have_derivatives():
    looks = torch2mlx(lambda x: x**3 if x.sum() > 0 else x, capture="never")
    assert inner(looks)(X).tolist() == [1, 1, 1]
    np.testing.assert_allclose(inner(inner(looks))(-X), -6 * X, rtol=1e-6)
    rows = mx.stack([-X, X])
    np.testing.assert_allclose(mx.vmap(looks)(rows), mx.stack([-(X**3), X]), rtol=1e-6)
    found = mx.vmap(inner(inner(looks)))(rows)
    np.testing.assert_allclose(found, mx.stack([-6 * X, 0 * X]), rtol=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_functions_of_jax_that_look_at_values_have_derivatives(sign):
    jnp = pytest.importorskip("jax.numpy")
    looks = jax2mlx(lambda x: x**3 if x[0] > 0 else jnp.sin(x), jit=False)
    x = sign * X / mx.sign(X[0])
    first, second = (3 * x**2, 6 * x) if sign > 0 else (mx.cos(x), -mx.sin(x))
    np.testing.assert_allclose(inner(looks)(x), first, rtol=1e-6)
    np.testing.assert_allclose(inner(inner(looks))(x), second, rtol=1e-6)
    np.testing.assert_allclose(mx.jvp(lambda x: [looks(x)], [x], [x])[1][0], first * x, rtol=1e-6)


def test_functions_of_jax_that_run_anew_are_batched():
    pytest.importorskip("jax")
    cube = jax2mlx(lambda x: (x**3, x.sum()), jit=False)
    rows = mx.stack([X, 2 * X])
    np.testing.assert_allclose(mx.vmap(lambda x: cube(x)[0])(rows), rows**3, rtol=1e-6)
    slope = mx.vmap(mx.grad(lambda x: (cube(x)[0] * X).sum()))
    np.testing.assert_allclose(slope(rows), 3 * rows**2 * X, rtol=1e-6)


def test_a_derivative_that_is_zero_everywhere():
    bridged = torch2mlx(lambda x: x.abs().expand(2, 3))  # whose second derivative has no memory
    slope = mx.grad(lambda x: (bridged(x) * X).sum())
    assert slope(X).tolist() == (2 * mx.abs(X)).tolist()
    curved = mx.vjp(lambda x: [slope(x)], [X], [mx.ones(3)])[1][0]
    assert curved.tolist() == [0, 0, 0]


def test_gradients_agree_with_finite_differences():
    with mx.stream(mx.cpu):
        x, y = X.astype(mx.float64), (X * X).astype(mx.float64)
        check_gradients(torch2mlx(lambda x, y: (torch.sin(x) * y, x.argmax())), x, y)
        check_gradients(lambda x: x * x * x, x)
        wrong = mx.custom_function(lambda x: x * x)
        wrong.vjp(lambda x, cotangent, _: cotangent * x)
        with pytest.raises(AssertionError, match="in reverse mode"):
            check_gradients(wrong, x)
        wrong.vjp(lambda x, cotangent, _: 2 * cotangent * mx.stop_gradient(x))
        check_gradients(wrong, x, order=1)
        with pytest.raises(AssertionError, match="finite differences"):
            check_gradients(wrong, x)
    with pytest.raises(ArgumentError, match="need float64"):
        check_gradients(torch2mlx(torch.sin), X)
