"""Derivatives of JAX functions whose backward pass repeats cheap operations."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch, to_jax  # noqa: E402, as above
from bridge._sources.jax import strategy  # noqa: E402, as above
from tests.tensors import leaves  # noqa: E402

RANDOM = np.random.default_rng(29)
X = RANDOM.uniform(-1.3, 1.5, (5, 3)).astype("float32")
W = RANDOM.uniform(-1.3, 1.5, (3, 4)).astype("float32")
V = RANDOM.uniform(-1.3, 1.5, (4, 4)).astype("float32")
Z = (W + 1j * RANDOM.uniform(-1.3, 1.5, W.shape)).astype("complex64")


@pytest.fixture(autouse=True)
def saves_whatever_it_costs(monkeypatch):
    monkeypatch.setattr(strategy, "recompute_cost", lambda _, is_repeated=None: not is_repeated)
    monkeypatch.setattr(strategy, "residual_cost", lambda *_, **__: 0.0)


def normalized(x, w, v):
    y = x @ w
    y = (y - y.mean(0)) / jnp.sqrt(y.var(0) + 1e-5)
    return jax.nn.relu(y * 1.3 + 0.2) @ v


def attention(x, w, v):
    scores = (x @ w) @ v @ (x @ w).T
    return jax.nn.softmax(scores, axis=-1) @ x


def recurrent(x, w, v):
    def step(h, row):
        h = jnp.where(h > 0.3, h, jnp.tanh(h @ v + row))
        return h, h.sum()

    return jax.lax.scan(step, jnp.zeros(4), x @ w)


def branches(x, w, v):
    y = x @ w
    sine = lambda y: jnp.sin(y) @ v
    return jax.lax.cond(x[0, 0] > 5, sine, lambda y: jnp.maximum(y, 0.1) ** 3, y)


def with_integers(x, w, v):
    y = x @ w
    return jnp.argmax(y, -1), jnp.clip(y, -1, 1) @ v, (y > 0).sum()


def dropout(x, w, v):
    kept = jax.random.bernoulli(jax.random.key(3), 0.6, (5, 4))
    return jnp.where(kept, x @ w / 0.6, 0) @ v


def looped(x, w, v):
    """No derivative goes through the loop, and none is repeated."""
    steps = jax.lax.while_loop(lambda i: i < 4, lambda i: i + 1.5, 0.0)
    return jax.nn.gelu(steps * x @ w) @ v


def convolved(x, w, v):
    y = jax.lax.conv_general_dilated(
        x[None, :, :, None], w[:, :, None, None], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    return jax.nn.leaky_relu(y) * v[:3, 0].reshape(1, 1, 3, 1)


def scattered(x, w, v):
    y = (x @ w).at[1:3].multiply(v[:2]).at[0, 1].set(0.3).at[jnp.array([4, 4, 2])].add(v[:3])
    return jnp.maximum(y, 0.1) ** 2 @ v


FUNCTIONS = [
    scattered,
    *(normalized, attention, recurrent, branches, with_integers, dropout, looped, convolved),
]


def native(f, points, cotangents):
    """The gradients by JAX, for cotangents of the floating results."""
    select = lambda *xs: [
        y for y in jax.tree.leaves(f(*xs)) if jnp.issubdtype(y.dtype, jnp.inexact)
    ]
    _, pullback = jax.vjp(select, *map(to_jax, points))
    return pullback([to_jax(c) for c in cotangents])


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_gradients_equal_native(function):
    f = jax2torch(function)
    points = leaves(X, W, V)
    for _ in range(2):
        outputs = [y for y in _flat(f(*points)) if y.requires_grad]
        cotangents = [torch.randn_like(y) for y in outputs]
        gradients = torch.autograd.grad(outputs, points, cotangents)
        expected = native(function, [p.detach() for p in points], cotangents)
        for gradient, other in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)
    assert repr(f).endswith("save>")


def _flat(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def test_complex_gradients_equal_torch():
    function = lambda xp, x, z: xp.abs(xp.exp(0.3j * (x + 0j) @ z) * (1 + 2j)) + (x @ z.real)
    f = jax2torch(lambda x, z: function(jnp, x, z))
    x, z = leaves(X, Z)
    cotangent = torch.randn(5, 4)
    gradients = torch.autograd.grad(f(x, z), (x, z), cotangent)
    expected = torch.autograd.grad(function(torch, x, z), (x, z), cotangent)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def saved(f, *points):
    """The shapes of what a call saves beside its arguments."""
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        f(*points)
    return sorted(tuple(t.shape) for t in seen[len(points) :])


def test_what_follows_from_a_product_is_not_saved():
    """Neither a mask, nor what was normalized: but products and sums."""
    points = leaves(X, W, V)
    f = jax2torch(lambda x, w, v: jax.nn.relu((x @ w) * 1.3 + 0.2) @ v)
    assert saved(f, *points) == [(5, 4)]


def calls_of(make):
    """How often a function runs in the forward and in the backward pass, with its gradient."""
    seen = []

    def host(y):
        seen.append(1)
        return np.asarray(y) * 2

    x, w = leaves(X, W)
    y = jax2torch(make(host))(x, w)
    jax.effects_barrier()
    forward = len(seen)
    gradients = torch.autograd.grad(y.sum(), (x, w))
    jax.effects_barrier()
    return forward, len(seen) - forward, gradients


def test_a_callback_is_not_called_again():
    def make(host):
        def f(x, w):
            factor = jax.pure_callback(host, jax.ShapeDtypeStruct((), "float32"), 1.5)
            return jnp.square(factor * (x @ w))

        return f

    forward, backward, gradients = calls_of(make)
    assert (forward, backward) == (1, 0)
    x, w = leaves(X, W)
    torch.testing.assert_close(gradients, torch.autograd.grad((3 * x @ w).square().sum(), (x, w)))


def test_an_effect_happens_once():
    """The backward pass would repeat it among the cheap operations."""
    calls = []

    def layers(x, w):
        for _ in range(3):
            x = jnp.tanh(x @ w)
        jax.debug.callback(lambda: calls.append(1))
        return x

    there = jax2torch(layers)
    x = torch.linspace(-1, 1, 512 * 256).reshape(512, 256).requires_grad_()
    w = (torch.linspace(-1, 1.5, 256 * 256).reshape(256, 256) / 16).requires_grad_()
    there(x, w).sum().backward()
    jax.effects_barrier()
    assert calls == [1]
    assert repr(there).endswith("save>")


def test_a_rule_chooses_its_residuals_itself():
    """What the forward of a `jax.custom_vjp` saves is not computed again."""

    def make(host):
        @jax.custom_vjp
        def doubled(y):
            return 2 * y

        def forward(y):
            return 2 * y, jax.pure_callback(host, jax.ShapeDtypeStruct(y.shape, y.dtype), y) * 0

        doubled.defvjp(forward, lambda zeros, cotangent: (2 * cotangent + zeros,))
        return lambda x, w: doubled(x @ w) * 3

    forward, backward, gradients = calls_of(make)
    assert (forward, backward) == (1, 0)
    x, w = leaves(X, W)
    torch.testing.assert_close(gradients, torch.autograd.grad((6 * x @ w).sum(), (x, w)))


def test_second_order_and_retained_graph():
    f = jax2torch(lambda x, w: jnp.maximum(x @ w, 0.1) ** 2)
    x, w = leaves(X, W)
    expected = torch.autograd.grad((x @ w).clamp(min=0.1).square().sum(), (x, w))
    y = f(x, w).sum()
    for _ in range(2):
        gradients = torch.autograd.grad(y, (x, w), retain_graph=True)
        torch.testing.assert_close(gradients, expected)
        gradients[0].zero_()
    x, w = leaves(X, W, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(f, (x, w))
