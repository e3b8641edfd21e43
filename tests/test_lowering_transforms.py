"""Transformations of functions of torch that XLA compiles."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import lax

from bridge import torch2jax
from tests.torch_functions import Clipped, Reversal, StraightThrough
from tests.torch_in_jax import in_jax, in_torch, xla

X = np.array([0.3, -1.2, 0.7])


pytestmark = pytest.mark.usefixtures("x64")


TRANSFORMS = {
    "jit": jax.jit,
    "vmap": lambda f: lambda x: jax.vmap(f, 1, 1)(jnp.stack([x, 2 * x], 1)),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x * x,))[1],
    "jacrev": jax.jacrev,
    "hessian": jax.hessian,
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.jacrev(f))),
    "gradients of examples": lambda f: (
        lambda x: jax.vmap(jax.grad(lambda x: f(x).sum()))(jnp.stack([x, 2 * x]))
    ),
    "gradient of examples": lambda f: (
        lambda x: jax.grad(lambda x: (jax.vmap(f)(jnp.stack([x, 2 * x])) ** 2).sum())(x)
    ),
    "scan": lambda f: lambda x: lax.scan(lambda c, t: (f(c * t), f(c)), x, X)[1],
    "gradient of a scan": lambda f: jax.grad(
        lambda x: lax.scan(lambda c, _: (f(c) / 3, None), x, length=4)[0].sum()
    ),
    "while_loop": lambda f: (
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1])), (0, x))[1]
    ),
    "checkpoint": lambda f: jax.grad(lambda x: jax.checkpoint(f)(x).sum()),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transformations_equal_native(transform):
    mine, native = (transform(f)(jnp.asarray(X)) for f in (xla(in_torch), in_jax))
    np.testing.assert_allclose(mine, native, rtol=1e-10)


@pytest.mark.parametrize("name", ["jacrev", "jvp", "vmap"])
def test_complex_transformations_equal_native(name):
    z = jnp.asarray(X + 1j * X[::-1])
    if name == "jacrev":
        mine, native = (jax.vjp(f, z)[1](z * 2j)[0] for f in (xla(in_torch), in_jax))
    else:
        mine, native = (TRANSFORMS[name](f)(z) for f in (xla(in_torch), in_jax))
    np.testing.assert_allclose(mine, native, rtol=1e-10)


STEP = (lambda x: StraightThrough.apply(x, torch.ones((), dtype=x.dtype)), lambda x: jnp.ones(3))
CUSTOM = {
    "straight-through": STEP,
    "reversal": (lambda x: Reversal.apply(x.sin(), 3.0), lambda x: -3 * jnp.cos(x)),
    "clipped": (lambda x: Clipped.apply(x**2), lambda x: jnp.clip(1.0, -0.5, 0.5) * 2 * x),
}


@pytest.mark.parametrize(("function", "slope"), CUSTOM.values(), ids=CUSTOM)
def test_custom_gradients_hold(function, slope):
    x, f = jnp.asarray(X), xla(function)
    gradient = jax.grad(lambda x: f(x).sum())
    np.testing.assert_allclose(jax.jit(gradient)(x), slope(x), rtol=1e-12)
    rows = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(gradient)(rows), jax.vmap(slope)(rows), rtol=1e-12)
    batched = jax.grad(lambda rows: jax.vmap(f)(rows).sum())
    np.testing.assert_allclose(batched(rows), jax.vmap(slope)(rows), rtol=1e-12)


def unrecorded(x):
    with torch.no_grad():
        twice = x * 2
    return twice * x


@pytest.mark.parametrize(
    ("function", "slope"),
    [(lambda x: x.detach() * x, lambda x: x), (unrecorded, lambda x: 2 * x)],
    ids=["detach", "no_grad"],
)
def test_gradients_that_are_constant_have_gradients(function, slope):
    """No cotangent flows into what computes them, and torch's graph has no array for it."""
    x, f = jnp.asarray(X), xla(function)
    gradient = jax.grad(lambda x: f(x).sum())
    np.testing.assert_allclose(gradient(x), slope(X), rtol=1e-12)
    second = jax.grad(lambda x: (x**2 * gradient(x)).sum())
    np.testing.assert_allclose(jax.jit(second)(x), 2 * X * slope(X), rtol=1e-12)
    np.testing.assert_array_equal(jax.hessian(lambda x: f(x).sum())(x), np.zeros((3, 3)))
    rows = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(jax.vmap(second)(rows)[1], 8 * X * slope(X), rtol=1e-12)


def test_64_bits_inside_of_32_bit_mode():
    with jax.enable_x64(False):
        f = jax.jit(xla(lambda x: (x.double().sum().float(), (x.argmax() * 2**40 >> 40).int())))
        x = jnp.asarray([1.0, 2.0**-30, -1.0], "float32")
        total, place = f(x)
        assert total == 2.0**-30  # lost where the sum is of single precision
        assert place == 0
        assert (total.dtype, place.dtype) == ("float32", "int32")


def test_integers_of_64_bits_are_refused_in_32_bit_mode():
    with jax.enable_x64(False), pytest.raises(TypeError, match=r"result 0 of argmax is int64\[\]"):
        xla(torch.argmax)(jnp.ones(3))


def test_a_module_trains_as_in_torch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3, padding=1),
        torch.nn.BatchNorm1d(4),
        torch.nn.GELU(),
        torch.nn.Flatten(),
        torch.nn.Linear(20, 3),
    ).double()
    there = torch2jax(net, lower="xla")
    x, labels = torch.randn(6, 2, 5, dtype=torch.float64), torch.randint(0, 3, (6,))

    @jax.jit
    def step(params, buffers, x, labels):
        def loss(params):
            scores, new = there.apply(params, buffers, x)
            return -jax.nn.log_softmax(scores)[jnp.arange(6), labels].mean(), new

        (value, buffers), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes), buffers

    params, buffers = there.params, there.buffers
    for _ in range(2):
        value, params, buffers = step(params, buffers, x.numpy(), labels.numpy())
    jax.block_until_ready(value)  # for it reads the memory that the optimizer of torch writes
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(net(x), labels)
        expected.backward()
        optimizer.step()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-10)
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(params[name], parameter.detach(), rtol=1e-8, atol=1e-12)
    for name, buffer in net.named_buffers():
        np.testing.assert_allclose(buffers[name], buffer, rtol=1e-10)


def test_indices_out_of_bounds_read_nan():
    f = xla(lambda x, n: (x[n], x.gather(0, n), torch.nn.functional.embedding(n, x[:, None])))
    n = jnp.array([1, 5, -7])
    for found in f(jnp.asarray(X), n):
        found = np.asarray(found).reshape(3)
        assert found[0] == X[1]
        assert np.isnan(found[1:]).all()
