"""Functions on NumPy arrays under the transformations of JAX, against the same functions of JAX."""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import lax

from bridge import numpy2jax
from bridge.rules import ComplexStep, FiniteDifference, ParameterShift

X, W = np.array([0.3, -1.2]), np.array([0.5, 1.7, -0.4])
XS = np.random.default_rng(1).normal(size=(4, 2))
WS = np.random.default_rng(2).normal(size=(4, 3))


def rotations(xp):
    """A function of angles that each enter one rotation, in the words of NumPy or of JAX."""

    def circuit(x, w):
        a = xp.sin(x[0] + 0.3) * xp.cos(w[0]) * xp.sin(w[1] - x[1]) + xp.cos(w[2])
        b = xp.cos(x[0]) * xp.sin(w[2] + 1) * xp.cos(x[1])
        return {"y": xp.stack([a, 0.7 * b]), "z": xp.sin(x[1]) * xp.cos(w[1])}

    return circuit


def for_points(x, w):
    results = rotations(np)(x.T, w.T)
    return {"y": results["y"].T, "z": results["z"]}


def results(x, w):
    return {"y": np.empty(2), "z": np.empty((), x.dtype)}


def loss(f):
    return lambda x, w: (f(x, w)["y"] ** 2).sum() + f(x, w)["z"] * x[0]


def total(f, *axes):
    return lambda x, w: (jax.vmap(lambda x, w: f(x, w)["y"], axes)(x, w) ** 3)[:, 0].sum()


def step(f):
    return lambda c, x: (c + f(x, c)["z"], f(x, c)["y"])


def scanned(f):
    return lambda w, xs: (lax.scan(step(f), w, xs)[1] ** 2).sum()


def branched(f):
    return lambda x, w: lax.cond(x[0] > 0, loss(f), lambda x, _: (x**2).sum(), x, w)


SECOND = {
    "hessian": lambda f: jax.jit(jax.hessian(loss(f), (0, 1)))(X, W),
    "per example": lambda f: jax.vmap(jax.grad(loss(f), (0, 1)), (0, None))(XS, W),
}
TRANSFORMS = SECOND | {
    "value_and_grad": lambda f: jax.jit(jax.value_and_grad(loss(f), (0, 1)))(X, W),
    "jacfwd": lambda f: jax.jacfwd(f, (0, 1))(X, W),
    "jacrev": lambda f: jax.jacrev(f, (0, 1))(X, W),
    "reverse twice": lambda f: jax.jacrev(jax.jacrev(f, (0, 1)), (0, 1))(X, W),
    "forward twice": lambda f: jax.jacfwd(jax.jacfwd(f, (0, 1)), 1)(X, W),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f, (0, 1)), 1)(X, W),
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.jacfwd(f, 1), 0), 1)(X, W),
    "vmap": lambda f: jax.vmap(f, (0, None))(XS, W),
    "axis 1": lambda f: jax.vmap(lambda x, w: f(x, w)["y"], (1, 1), 1)(XS.T, WS.T),
    "last axis": lambda f: jax.vmap(lambda x, w: f(x, w)["y"], (-1, -1), -1)(XS.T, WS.T),
    "nested vmap": lambda f: jax.vmap(jax.vmap(f, (1, None)), (None, 1))(XS.T, WS.T),
    "nested grad": lambda f: jax.vmap(jax.vmap(jax.grad(loss(f), (0, 1)), (None, 0)), (0, None))(
        XS, WS
    ),
    "shared weights": lambda f: jax.grad(total(f, 0, None), (0, 1))(XS, W),
    "vmap between": lambda f: jax.vmap(jax.jacrev(total(f, None, 1), (0, 1)), (1, None))(
        XS.T, WS.T
    ),
    "hessian of vmap": lambda f: jax.hessian(total(f, 0, None), (0, 1))(XS, W),
    "hessian by example": lambda f: jax.vmap(jax.hessian(loss(f), (0, 1)))(XS, WS),
    "scan": lambda f: lax.scan(step(f), W, XS),
    "gradient of scan": lambda f: jax.grad(scanned(f), (0, 1))(W, XS),
    "cond": lambda f: [jax.grad(branched(f), (0, 1))(x, W) for x in (X, -X)],
    "while_loop": lambda f: jax.jvp(
        lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1], W)["y"]), (0, x))[
            1
        ],
        *((X,), (XS[0],)),
    ),
    "checkpoint": lambda f: jax.jit(jax.hessian(jax.checkpoint(loss(f)), (0, 1)))(X, W),
    "linearize": lambda f: jax.vmap(jax.linearize(f, X, W)[1])(XS, WS),
    "vjp": lambda f: jax.vmap(jax.vjp(f, X, W)[1])({"y": XS, "z": XS[:, 1]}),
    "vector products": lambda f: jax.jvp(jax.grad(loss(f)), (X, W), (XS[0], WS[0])),
    "one argument twice": lambda f: jax.hessian(lambda x: f(x, x[jnp.array([0, 1, 0])])["z"])(X),
    "one result": lambda f: jax.jit(jax.grad(lambda x, w: f(x, w)["z"], (0, 1)))(X, W),
    "no examples": lambda f: jax.vmap(jax.value_and_grad(loss(f), (0, 1)), (0, None))(XS[:0], W),
}


def check(transform, f, atol):
    expected = jax.tree.flatten(jax.jit(lambda: transform(rotations(jnp)))())
    found = jax.tree.flatten(transform(f))
    assert found[1] == expected[1]
    for y, truth in zip(found[0], expected[0], strict=True):
        assert (y.shape, y.dtype) == (truth.shape, truth.dtype)
        np.testing.assert_allclose(y, truth, rtol=0, atol=atol)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_every_transformation(transform):
    """Two calls for five points and more, whose borders are no borders of examples."""
    options = {"vectorized": True, "batch_size": 5, "out": results}
    check(transform, numpy2jax(for_points, gradient=ParameterShift(), **options), 1e-9)


@pytest.mark.usefixtures("x64")
def test_without_jit_and_compiled_ahead():
    f = numpy2jax(rotations(np), gradient=ParameterShift(), out=results)
    expected = jax.grad(loss(rotations(jnp)))(X, W)
    with jax.disable_jit():
        np.testing.assert_allclose(jax.grad(loss(f))(X, W), expected, atol=1e-12)
    compiled = jax.jit(jax.grad(loss(f)), donate_argnums=0).lower(X, W).compile()
    np.testing.assert_allclose(compiled(jnp.array(X), W), expected, atol=1e-12)


DIFFERENCES = FiniteDifference(accuracy=4)
RULES = {
    "shifts": (ParameterShift(), 1e-9),
    "center": (DIFFERENCES, 1e-2),
    "forward": (FiniteDifference(accuracy=4, strategy="forward"), 1e-2),
    "backward": (FiniteDifference(accuracy=4, strategy="backward"), 1e-2),
    "complex": (ComplexStep(), 1e-2),
    "both": ({"x": DIFFERENCES, "w": ParameterShift()}, 1e-2),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rule", "atol"), RULES.values(), ids=RULES)
@pytest.mark.parametrize("transform", SECOND.values(), ids=SECOND)
def test_every_rule(transform, rule, atol):
    check(transform, numpy2jax(rotations(np), gradient=rule), atol)


class Counting:
    """A product of cosines of all angles; `points` has the number of points of each call."""

    def __init__(self):
        self.points = []

    def __call__(self, x):
        self.points.append(len(x))
        return np.cos(x).prod(1)


def counting(rule, **options):
    fn = Counting()
    options = {"vectorized": True, "out": np.empty(()), **options}
    return numpy2jax(fn, gradient=rule, **options), fn.points


POINTS = {  # of p angles
    "grad": (lambda f: jax.jit(jax.grad(f)), ParameterShift(), lambda p: [2 * p]),
    "value": (lambda f: jax.jit(jax.value_and_grad(f)), ParameterShift(), lambda p: [1, 2 * p]),
    "jacfwd": (lambda f: jax.jit(jax.jacfwd(f)), ParameterShift(), lambda p: [2 * p]),
    "hessian": (
        *(lambda f: jax.jit(jax.hessian(f)), ParameterShift()),
        lambda p: [1 + p + 2 * p * (p - 1)],
    ),
    "jvp": (lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (x,))[1]), DIFFERENCES, lambda _: [4]),
    "complex": (
        lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (x,))[1]),
        ComplexStep(),
        lambda _: [1],
    ),
    "forward": (
        *(jax.value_and_grad, FiniteDifference(accuracy=1, strategy="forward")),
        lambda p: [1, p],
    ),
    "examples": (
        *(lambda f: lambda x: jax.vmap(jax.grad(f))(jnp.stack([x, 2 * x, 3 * x])),),
        *(ParameterShift(), lambda p: [3, 6 * p]),
    ),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("transform", "rule", "expected"), POINTS.values(), ids=POINTS)
@pytest.mark.parametrize("p", [1, 2, 5])
def test_points_and_calls(transform, rule, expected, p):
    f, points = counting(rule)
    jax.block_until_ready(transform(f)(jnp.linspace(0.1, 0.9, p)))
    assert [n for n in points if n] == [n for n in expected(p) if n]  # of no points is no call
    assert (f.evaluations, f.calls) == (sum(points), len(points))


@pytest.mark.usefixtures("x64")
def test_shared_weights_are_not_shifted_for_each_example():
    points = []
    fn = lambda x, w: points.append(len(x)) or np.cos(x).prod(1) * np.sin(w).prod(1)
    f = numpy2jax(fn, gradient=ParameterShift(), vectorized=True, out=np.empty(()))
    weights = jax.grad(lambda w: jax.vmap(f, (0, None))(XS, w).sum())
    jax.jit(weights)(W)
    jax.jit(jax.grad(lambda x, w: jax.vmap(f, (0, None))(x, w).sum(), (0, 1)))(XS, W)
    assert points == [2 * 3 * 4, 2 * (3 + 2) * 4]


@pytest.mark.parametrize(
    "out", [np.empty(()), jax.ShapeDtypeStruct((), "float64"), lambda x: x[0] + x.sum()]
)
@pytest.mark.usefixtures("x64")
def test_nothing_is_evaluated_at_made_up_values(out):
    f, points = counting(ParameterShift(), out=out)
    jax.make_jaxpr(jax.hessian(f))(X)
    jax.eval_shape(jax.vmap(jax.grad(f)), XS)
    compiled = jax.jit(jax.grad(f)).lower(X).compile()
    assert points == []
    compiled(X)
    assert points == [4]
    unknown, points = counting(ParameterShift(), out=None)
    jax.make_jaxpr(jax.hessian(unknown))(X)
    jax.make_jaxpr(unknown)(X)
    assert points == [1]
