"""Derivatives that the user gives, noise, and rules for single arguments, seen from JAX."""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from bridge import ArgumentError, NoRuleError, NoValuesError, numpy2jax
from bridge.rules import SPSA, ComplexStep, FiniteDifference, Jacobian, Jvp, ParameterShift, Vjp

X, W = np.array([0.3, -1.2, 0.7]), np.array([0.5, -0.8])
XS = np.random.default_rng(1).normal(size=(4, 3))
Z = np.array([0.3 + 0.4j, -1.2 + 0.1j, 0.7 - 0.9j])
C = np.array([1 + 2j, -0.5 + 0.3j, 2 - 1j])
THEN = ParameterShift()
VECTOR, SCALAR = np.empty(2), np.empty(())


def fn(x, w):
    """At N points; each angle has the frequency 1."""
    return np.stack([np.sin(x).sum(1) * np.cos(w[:, 0]), np.cos(w).prod(1) * np.sin(x[:, 1])], 1)


def truth(x, w):
    return jnp.stack([jnp.sin(x).sum() * jnp.cos(w[0]), jnp.cos(w).prod() * jnp.sin(x[1])])


def jacobians(x, w):
    by_x, by_w = np.zeros((len(x), 2, 3)), np.zeros((len(x), 2, 2))
    by_x[:, 0] = np.cos(x) * np.cos(w[:, :1])
    by_x[:, 1, 1] = np.cos(w).prod(1) * np.cos(x[:, 1])
    by_w[:, 0, 0] = -np.sin(x).sum(1) * np.sin(w[:, 0])
    by_w[:, 1] = -np.sin(w) * np.cos(w[:, ::-1]) * np.sin(x[:, 1:2])
    return by_x, by_w


class Runs:
    """Rules of the user that note how many points they are evaluated at."""

    def __init__(self):
        self.points = []

    def jacobian(self, x, w):
        self.points.append(len(x))
        return jacobians(x, w)

    def vjp(self, primals, cotangents, outputs):
        self.points.append(len(cotangents))
        np.testing.assert_array_equal(outputs, fn(*primals))
        return tuple(np.einsum("no,noi->ni", cotangents, j) for j in jacobians(*primals))

    def jvp(self, primals, tangents):
        self.points.append(len(primals[0]))
        pairs = zip(jacobians(*primals), tangents, strict=True)
        return sum(np.einsum("noi,ni->no", j, t) for j, t in pairs)

    def rule(self, kind, then=THEN):
        return kind(getattr(self, kind.__name__.lower()), then=then)


BOTH = (0, 1)
TRANSFORMS = {  # and the points at which a Jacobian, a Vjp and a Jvp are evaluated
    "jacrev": (lambda f: jax.jacrev(f, BOTH)(X, W), [1, 2, 5]),
    "jacfwd": (lambda f: jax.jacfwd(f, BOTH)(X, W), [1, 2, 5]),
    "jvp": (lambda f: jax.jit(lambda x: jax.jvp(f, (x, W), (x, W))[1])(X), [1, 2, 1]),
    "shared": (
        lambda f: jax.grad(lambda w: (jax.vmap(f, (0, None))(XS, w) ** 2).sum())(W),
        [4, 4, 4 * 2],
    ),
    "per example": (
        lambda f: jax.vmap(jax.grad(lambda x, w: (f(x, w) ** 2).sum(), BOTH), (0, None))(XS, W),
        [4, 4, 4 * 5],
    ),
    "second": (lambda f: jax.jacrev(jax.jacrev(f, BOTH), BOTH)(X, W), None),
    "forward twice": (lambda f: jax.jacfwd(jax.jacfwd(f, BOTH), BOTH)(X, W), None),
    "hessian": (lambda f: jax.jit(jax.hessian(lambda x: (f(x, W) ** 2).sum()))(X), None),
    "batched": (lambda f: jax.vmap(jax.jacfwd(jax.jacrev(f)), (0, None))(XS, W), None),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [Jacobian, Vjp, Jvp])
@pytest.mark.parametrize(("transform", "points"), TRANSFORMS.values(), ids=TRANSFORMS)
def test_derivatives_of_the_user(transform, points, kind):
    runs = Runs()
    f = numpy2jax(fn, gradient=runs.rule(kind), vectorized=True, out=VECTOR)
    found = jax.tree.leaves(transform(f))
    expected = jax.tree.leaves(transform(truth))
    assert len(found) == len(expected)
    for y, known in zip(found, expected, strict=True):
        np.testing.assert_allclose(y, known, rtol=0, atol=1e-12)
    if points:
        assert runs.points == [points[[Jacobian, Vjp, Jvp].index(kind)]]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [Jacobian, Vjp, Jvp])
def test_a_second_derivative_needs_a_rule(kind):
    f = numpy2jax(fn, gradient=Runs().rule(kind, then=None), vectorized=True, out=VECTOR)
    with pytest.raises(NoRuleError, match=rf"the {kind.__name__} of fn .*by argument x.*`then=`"):
        jax.jacfwd(jax.jacrev(f))(X, W)
    by_cotangents = jax.linear_transpose(jax.vjp(f, X, W)[1], jnp.ones(2))
    np.testing.assert_allclose(by_cotangents((X, W))[0], jax.jvp(truth, (X, W), (X, W))[1])


def test_vjp_takes_outputs_and_trees_as_they_are():
    calls = []

    def tree(p, *, scale):
        calls.append("value")
        return {"a": np.float32(np.sin(p["x"]).sum() * scale), "b": 2 * p["x"], "n": np.arange(2)}

    def vjp(primals, cotangents, outputs):
        calls.append("gradient")
        p, scale = primals
        assert outputs["b"].tolist() == (2 * p["x"]).tolist()
        assert cotangents["b"].tolist() == [0, 0, 0]  # which nobody gave
        assert outputs["n"].tolist() == [0, 1]
        return {"x": np.cos(p["x"]) * cotangents["a"] * scale, "unused": None}, None

    f = numpy2jax(tree, gradient=Vjp(vjp))
    p = {"x": jnp.float32(X), "unused": jnp.ones(2)}
    expected = 3 * np.cos(p["x"])
    calls.clear()
    found, by_scale = jax.grad(lambda p, s: f(p, scale=s)["a"], (0, 1))(p, jnp.float32(3))
    np.testing.assert_allclose(found["x"], expected, atol=1e-6)
    assert (found["unused"].tolist(), by_scale) == ([0, 0], 0)
    assert calls == ["value", "value", "gradient"]  # the first, to see what it returns


COMPLEX = {  # closed forms of df = a dz + b conj(dz)
    "holomorphic": (
        lambda xp: lambda z: xp.sin(z) * z**2,
        lambda z: (np.cos(z) * z**2 + 2 * z * np.sin(z), 0 * z),
    ),
    "not": (
        lambda xp: lambda z: xp.conj(z) * xp.sin(z) + xp.abs(z) ** 2,
        lambda z: (np.conj(z) * (np.cos(z) + 1), np.sin(z) + z),
    ),
}
COMPLEX_RULES = {
    "differences": lambda _: FiniteDifference(accuracy=4),
    "vjp": lambda ab: Vjp(
        lambda p, w, _: np.conj(ab(p[0])[0]) * w + ab(p[0])[1] * np.conj(w),
        then=FiniteDifference(accuracy=4),
    ),
    "jvp": lambda ab: Jvp(
        lambda p, t: ab(p[0])[0] * t[0] + ab(p[0])[1] * np.conj(t[0]),
        then=FiniteDifference(accuracy=4),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("make", COMPLEX_RULES.values(), ids=COMPLEX_RULES)
@pytest.mark.parametrize(("written", "partials"), COMPLEX.values(), ids=COMPLEX)
def test_complex_numbers_follow_jax(written, partials, make):
    """Which has the conjugates of torch's gradients."""
    f, g = numpy2jax(written(np), gradient=make(partials)), written(jnp)
    norm = lambda f: lambda z: (jnp.abs(f(z)) ** 2).sum()
    for transform, atol in [
        (lambda f: jax.vjp(f, Z)[1](C)[0], 1e-7),
        (lambda f: jax.jvp(f, (Z,), (C,))[1], 1e-7),
        (lambda f: jax.jacrev(f, holomorphic=True)(Z), 1e-7),
        (lambda f: jax.vmap(jax.grad(norm(f)))(jnp.stack([Z, C])), 1e-6),
        (lambda f: jax.jvp(jax.grad(norm(f)), (Z,), (C,))[1], 1e-2),
        (lambda f: jax.vjp(jax.grad(norm(f)), Z)[1](C)[0], 1e-2),
    ]:
        np.testing.assert_allclose(transform(f), transform(g), rtol=1e-6, atol=atol)


REFUSED = {
    "shape": (Vjp(lambda *_: np.ones(2)), r"the Vjp of <lambda> by x is float64\[2\].*\(3,\)"),
    "complex": (Vjp(lambda *_: 1j * X), r"the Vjp of <lambda> by x is complex"),
    "tuple": (Vjp(lambda *_: (X, X)), r"Vjp of <lambda>"),
    "jacobian": (Jacobian(lambda _: np.ones((3, 1))), r"the Jacobian of <lambda> by x .*\(3,\)"),
    "real": (ComplexStep(), r"imaginary part of a real function, but its result 0 has real"),
    "rows": (ParameterShift(((1,), (2,))), r"x of <lambda> has 3 elements, and .* has 2 rows"),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rule", "text"), REFUSED.values(), ids=REFUSED)
def test_wrong_derivatives_are_refused(rule, text):
    f = numpy2jax(lambda x: np.abs(x).sum(), gradient=rule, out=SCALAR)
    with pytest.raises(ArgumentError, match=text):
        jax.grad(f)(X)


@pytest.mark.usefixtures("x64")
def test_computing_with_jax_inside_is_refused():
    """It may wait for the computation that it is a part of."""
    inside = lambda x: np.asarray(jnp.sin(x).sum())
    with pytest.raises(NoValuesError, match="runs inside of a JAX computation"):
        numpy2jax(inside, out=SCALAR)(X)


FORWARD, BACKWARD = (FiniteDifference(accuracy=1, strategy=s) for s in ("forward", "backward"))
DIGITS = {  # precision of the arguments, of the results, options
    "center": (FiniteDifference(), "float32", "float64", {"dtype": "float64"}),
    "double": (FORWARD, "float64", "float64", {}),
    "forward": (FORWARD, "float32", "float64", {"dtype": "float64"}),
    "backward": (BACKWARD, "float32", "float64", {"dtype": "float64"}),
    "single": (FORWARD, "float64", "float32", {}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("rule", "given", "computed", "options"),
    DIGITS.values(),
    ids=DIGITS,
)
def test_steps_suit_the_precision(rule, given, computed, options):
    """Also of a value that was returned, and of a function that computes in single precision."""
    fn = lambda x: np.exp(x.astype(computed)).sum() + 3
    f = numpy2jax(fn, gradient=rule, **options)
    np.testing.assert_allclose(jax.grad(f)(jnp.array(X, given)), np.exp(X), rtol=1e-2)


# Noise: multiplied, so that it biases the gradient of a square if both factors share it.
KEYS = jax.random.split(jax.random.key(3), 1500)


def noisy(x, *, rng):
    return np.sin(x).sum() * (1 + 0.5 * rng.normal())


def noisy_by_key(x, words):
    """The mistake: every point of a derivative has the noise of the value."""
    return noisy(x, rng=np.random.default_rng([int(word) for word in words]))


def deviation(f, order="grad"):
    """How many standard errors a mean derivative of y**2 is off."""
    squared = lambda x, key: f(x, key) ** 2
    y, slopes = np.sin(X).sum(), np.cos(X)
    found, expected = jax.grad(squared), 2 * y * slopes
    if order != "grad":
        inner, outer = order
        found = outer(inner(squared))
        expected = 2 * np.outer(slopes, slopes) - 2 * y * np.diag(np.sin(X))
    draws = np.array(jax.jit(jax.vmap(found, (None, 0)))(X, KEYS))
    return np.abs((draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rule", [THEN, FiniteDifference(h=0.01), SPSA(2), SPSA(2, seed=1)])
def test_gradients_of_squares_have_no_bias(rule):
    f = numpy2jax(noisy, gradient=rule, out=SCALAR)
    assert deviation(lambda x, key: f(x, rng=key)) < 5
    shared = numpy2jax(noisy_by_key, gradient={"x": rule}, out=SCALAR)
    assert deviation(lambda x, key: shared(x, jax.random.key_data(key))) > 5


ORDERS = {
    "forward over reverse": (jax.grad, jax.jacfwd),
    "reverse twice": (jax.grad, jax.jacrev),
    "reverse over forward": (jax.jacfwd, jax.jacrev),
    "forward twice": (jax.jacfwd, jax.jacfwd),
}
BIASED = pytest.mark.xfail(strict=True, reason="two tangents of one value share their noise")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "order",
    [pytest.param(o, marks=BIASED if n == "forward twice" else ()) for n, o in ORDERS.items()],
    ids=ORDERS,
)
def test_hessians_of_squares_have_no_bias(order):
    f = numpy2jax(noisy, gradient=THEN, out=SCALAR)
    assert deviation(lambda x, key: f(x, rng=key), order) < 5


@pytest.mark.usefixtures("x64")
def test_the_same_key_draws_the_same_numbers():
    f = numpy2jax(noisy, gradient=THEN, out=SCALAR)
    key, keys = jax.random.key(3), KEYS[:4]
    for call in (lambda x, key: f(x, rng=key), jax.grad(lambda x, key: f(x, rng=key))):
        found = call(X, key)
        np.testing.assert_array_equal(jax.jit(call)(X, key), found)
        np.testing.assert_array_equal(call(X, jax.random.PRNGKey(3)), found)
        assert not np.allclose(call(X, jax.random.key(4)), found)
        alone = np.stack([call(x, k) for x, k in zip(XS, keys, strict=True)])
        np.testing.assert_allclose(jax.vmap(call)(XS, keys), alone, rtol=1e-12)
        raw = jax.vmap(call, (0, 1))(XS, jax.random.key_data(keys).T)
        np.testing.assert_allclose(raw, alone, rtol=1e-12)
        together = jax.vmap(call, (None, 0))(X, keys)
        np.testing.assert_allclose(together, [call(X, k) for k in keys], rtol=1e-12)
        assert len({*np.ravel(together)}) == np.size(together)
    with pytest.raises(ArgumentError, match=r"noisy draws random numbers.* `rng=`"):
        f(X)
