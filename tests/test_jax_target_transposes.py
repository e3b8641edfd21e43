"""Calls from JAX as linear functions, which JAX transposes."""

import functools

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import torch
from jax import lax

import bridge
from bridge import NoRuleError
from tests.kits import kit

pytestmark = [
    pytest.mark.usefixtures("x64"),
    pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph:UserWarning"),
]
RANDOM = np.random.default_rng(0)
A = RANDOM.normal(size=(2, 3))
X, C, U = RANDOM.normal(size=(3, 3))
Z, D, V = RANDOM.normal(size=(3, 3)) + 1j * RANDOM.normal(size=(3, 3))


def curved(xp, x):
    return xp.sin(x) * (x * x).sum()


def equal(mine, native, rtol=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12), mine, native)


def transposed(pull, like):
    return lambda u: jax.linear_transpose(pull, like)((u,))[0]


WAYS = {
    "captured": {},
    "looking": {},
    "xla": {"lower": "xla"},
    "mlx": {},
}


def bridged(way):
    """A function that is bridged in this way, and how close it comes."""
    if way == "mlx":
        mx = kit("mlx").xp
        return bridge.mlx2jax(functools.partial(curved, mx)), 1e-5
    if way == "looking":
        look = lambda x: curved(torch, x) if x.real.sum() < 100 else x
        return bridge.torch2jax(look), 1e-9
    return bridge.torch2jax(functools.partial(curved, torch), **WAYS[way]), 1e-9


def pullback(h, x):
    return jax.vjp(h, x)[1]


USES = {
    "traced before": lambda h, x, c, u: transposed(pullback(h, x), c)(u),
    "traced within": lambda h, x, c, u: transposed(lambda c: pullback(h, x)(c), c)(u),
    "jit": lambda h, x, c, u: jax.jit(
        lambda x, u: transposed(jax.jit(lambda c: pullback(h, x)(c)), c)(u)
    )(x, u),
    "vmap of it": lambda h, x, c, u: jax.vmap(transposed(pullback(h, x), c))(jnp.stack([u, c])),
    "vmap in it": lambda h, x, c, u: transposed(jax.vmap(pullback(h, x)), jnp.stack([c, u]))(
        jnp.stack([u, c])
    ),
    "of a batch": lambda h, x, c, u: transposed(
        pullback(jax.vmap(h), jnp.stack([x, u])), jnp.stack([c, u])
    )(jnp.stack([u, c])),
    "twice": lambda h, x, c, u: jax.linear_transpose(transposed(pullback(h, x), c), u)(c),
    "its tangent": lambda h, x, c, u: jax.jvp(
        lambda x: transposed(lambda c: pullback(h, x)(c), c)(u), (x,), (c,)
    )[1],
}


FEW = ["jit", "vmap of it", "its tangent"]
CASES = [(way, use) for way in WAYS for use in (USES if way == "captured" else FEW)]


@pytest.mark.parametrize(("way", "use"), CASES, ids=map("-".join, CASES))
def test_a_pullback_is_transposed_to_tangents(way, use):
    (h, rtol), use = bridged(way), USES[use]
    native = functools.partial(curved, jnp)
    for args in ((X, C, U), (Z, D, V)) if way == "captured" else ((X, C, U),):
        args = tuple(map(jnp.asarray, args))
        equal(use(h, *args), use(native, *args), rtol)


def test_some_of_several_cotangents_and_arguments():
    f = bridge.torch2jax(lambda x, n, w: (x * w.sum() * n[0], n + 1, torch.cumsum(w, 0) * x.sum()))
    g = lambda x, n, w: (x * w.sum() * n[0], n + 1, jnp.cumsum(w, 0) * x.sum())
    n, none = jnp.array([3]), np.zeros(1, jax.dtypes.float0)

    def of_first(h):
        pull = jax.vjp(h, X, n, U)[1]
        some = lambda c: (pull((c, none, jnp.zeros(3)))[0], pull((c, none, 2 * c))[2])
        return jax.linear_transpose(some, C)((C, U))

    equal(of_first(f), of_first(g))


def test_implicit_differentiation():
    """The root of a function of torch, and the solution of a system that it makes."""

    def root(h, solve):
        def by(w):
            f = lambda x: h(x, w)
            newton = lambda f, x: lax.fori_loop(
                0, 20, lambda _, x: x - jnp.linalg.solve(jax.jacfwd(f)(x), f(x)), x
            )
            return lax.custom_root(f, jnp.asarray(X), newton, solve)

        return by

    def solve(g, y):
        return jnp.linalg.solve(jax.jacfwd(g)(jnp.zeros_like(y)), y)

    f = bridge.torch2jax(lambda x, w: torch.tanh(x) + 2 * x - w * x.sum())
    g = lambda x, w: jnp.tanh(x) + 2 * x - w * x.sum()
    w = jnp.array([0.3, -0.2, 0.1])
    for transform in (jax.jacrev, lambda h: jax.jit(jax.grad(lambda w: h(w).prod()))):
        equal(transform(root(f, solve))(w), transform(root(g, solve))(w))


def test_a_linear_solve_within_a_gradient():
    def energy(xp):
        return lambda x: (xp.cosh(x) * xp.arange(1.0, 4.0)).sum() + (x.sum() ** 2) / 2

    def step(h):
        def direction(x):
            slope = jax.grad(h)
            product = lambda v: jax.vjp(slope, x)[1](v)[0]
            return jax.scipy.sparse.linalg.cg(product, slope(x), tol=1e-12)[0].sum()

        return jax.grad(direction)(jnp.asarray(X))

    xp = type(
        "torch64", (), {"cosh": torch.cosh, "arange": lambda a, b: torch.arange(a, b).double()}
    )
    equal(step(bridge.torch2jax(energy(xp))), step(energy(jnp)), rtol=1e-6)


LINEAR = {
    "matrix": (lambda x: torch.from_numpy(A) @ x, lambda x: A @ x),
    "with a constant": (lambda x: 2 * x.flip(0) + 1, lambda x: 2 * x[::-1] + 1),
    "cumulated": (lambda x: (x.cumsum(0), x.sum()), lambda x: (jnp.cumsum(x), x.sum())),
    "picked": (lambda x: x[[2, 0, 2]], lambda x: x[jnp.array([2, 0, 2])]),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_linear_functions_are_transposed(name, jit):
    f, g = LINEAR[name]
    f = bridge.torch2jax(f)
    f = jax.jit(f) if jit else f
    weights = jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size).reshape(y.shape) + 1.0), g(X))
    equal(jax.linear_transpose(f, X)(weights), jax.linear_transpose(g, X)(weights))


def test_complex_linear_functions():
    m = A[:, :2] + 1j * A[:, 1:]
    for f, g in [
        (lambda z: torch.from_numpy(m) @ z, lambda z: m @ z),
        (lambda z: z.conj() * (1 + 2j), lambda z: jnp.conj(z) * (1 + 2j)),
        (lambda z: z.real * 2, lambda z: z.real * 2),
        (lambda z: torch.fft.fft(z), jnp.fft.fft),
    ]:
        w = D[:2] if jnp.iscomplexobj(g(Z[:2])) else C[:2]
        mine = jax.linear_transpose(bridge.torch2jax(f), Z[:2])(w)
        equal(mine, jax.linear_transpose(g, Z[:2])(w))


def test_functions_linear_in_one_argument():
    f, g = bridge.torch2jax(lambda a, x: torch.sin(a) @ x), lambda a, x: jnp.sin(a) @ x
    w = jnp.array([1.5, -0.5])
    by_x = lambda h: jax.jit(lambda a, w: jax.linear_transpose(lambda x: h(a, x), X)(w))(A, w)
    equal(by_x(f), by_x(g))
    with pytest.raises(NoRuleError, match="is not known to be linear"):
        jax.linear_transpose(lambda a: f(a, X), A)(w)
    with pytest.raises(NoRuleError, match="is not known to be linear"):
        jax.linear_transpose(f, A, X)(w)


class Signed(torch.autograd.Function):
    """The identity, whose gradient is not linear."""

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g.sign()


class Stepped(Signed):
    """A step, whose gradient is that of the identity."""

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return 1 * g


CURVED = {
    "sin": torch.sin,
    "square": lambda x: x * x,
    "relu": torch.relu,
    "abs": torch.abs,
    "round": torch.round,
    "floor": lambda x: torch.floor(x) + x,
    "detached": lambda x: x.detach() * 2,
    "straight through": lambda x: Stepped.apply(x),
    "runs anew": lambda x: 2 * x if x.sum() > 0 else 3 * x,
}


@pytest.mark.parametrize("function", CURVED.values(), ids=CURVED)
def test_functions_that_are_not_linear_are_refused(function):
    f = bridge.torch2jax(lambda x: function(x))
    with pytest.raises(NoRuleError, match=r"is not known to be linear.*the pullback of jax\.vjp"):
        jax.linear_transpose(f, X)(C)


def test_a_function_that_is_linear_in_what_it_has_detached_is_refused():
    """Its derivative would leave the cotangent of one of the two out."""
    f = bridge.torch2jax(lambda x, y: (2 * x, 3 * y.detach()))
    with pytest.raises(NoRuleError, match="is not known to be linear"):
        jax.linear_transpose(f, X, X)((C, C))
    (alone,) = jax.linear_transpose(lambda x: f(x, X)[0], X)(C)
    equal(alone, 2 * C)


def test_a_gradient_that_is_not_linear_is_refused():
    pull = pullback(bridge.torch2jax(lambda x: Signed.apply(x)), X)
    with pytest.raises(NoRuleError):
        transposed(pull, C)(U)


def test_a_gradient_that_the_user_wrote_is_what_is_transposed():
    pull = pullback(bridge.torch2jax(lambda x: Stepped.apply(x * x)), X)
    equal(transposed(pull, C)(U), 2 * X * U)


def test_a_derivative_is_not_linear_in_its_primals():
    f = bridge.torch2jax(torch.sin)
    with pytest.raises(NoRuleError, match="is not known to be linear"):
        jax.linear_transpose(lambda x: jax.jvp(f, (x,), (C,))[1], X)(U)
