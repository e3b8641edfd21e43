"""Functions on NumPy arrays under the transformations of MLX, against the same of MLX."""

import numpy as np
import pytest

pytest.importorskip("mlx.core")

import mlx.core as mx

from bridge import ArgumentError, NoRuleError, NoValuesError, OptionError, numpy2mlx
from bridge.rules import ComplexStep, FiniteDifference, Jacobian, Jvp, ParameterShift, Vjp

X, W = mx.array([0.3, -1.2]), mx.array([0.5, 1.7, -0.4])
RANDOM = np.random.default_rng(1)
XS, WS = (mx.array(RANDOM.normal(size=(4, n)).astype(np.float32)) for n in (2, 3))
SINGLE = np.empty((), np.float32)
SHIFTS = ParameterShift()


def rotations(xp):
    """A function of angles that each enter one rotation, in the words of NumPy or of MLX."""

    def circuit(x, w):
        a = xp.sin(x[0] + 0.3) * xp.cos(w[0]) * xp.sin(w[1] - x[1]) + xp.cos(w[2])
        b = xp.cos(x[0]) * xp.sin(w[2] + 1) * xp.cos(x[1])
        return {"y": xp.stack([a, 0.7 * b]), "z": xp.sin(x[1]) * xp.cos(w[1])}

    return circuit


def results(x, w):
    return {"y": np.empty(2, x.dtype), "z": np.empty((), w.dtype)}


def both(f):
    return lambda x, w: [f(x, w)["y"], f(x, w)["z"]]


def y(f):
    return lambda x, w: f(x, w)["y"]


def loss(f):
    return lambda x, w: (f(x, w)["y"] ** 2).sum() + f(x, w)["z"] * x[0]


def penalty(f):
    return lambda x, w: (mx.grad(loss(f))(x, w) ** 2).sum()


def total(f):
    return lambda x, w: (mx.vmap(y(f), (0, None))(x, w) ** 3)[:, 0].sum()


def tangent(f):
    return lambda x: mx.jvp(both(f), [x, W], [2 * X, W])[1][0]


BOTH = (0, 1)
TRANSFORMS = {
    "value": lambda f: f(X, W),
    "grad": lambda f: mx.value_and_grad(loss(f), BOTH)(X, W),
    "one result": lambda f: mx.grad(lambda x, w: f(x, w)["z"], BOTH)(X, W),
    "one argument twice": lambda f: mx.grad(lambda x: y(f)(x, x[mx.array([0, 1, 0])]).sum())(X),
    "grad of grad": lambda f: mx.grad(penalty(f), BOTH)(X, W),
    "third": lambda f: mx.grad(lambda x: (mx.grad(penalty(f))(x, W) ** 2).sum())(X),
    "vjp": lambda f: mx.vjp(both(f), [X, W], [XS[0], WS[0, 0]]),
    "jvp": lambda f: mx.jvp(both(f), [X, W], [XS[0], WS[0]]),
    "jvp of jvp": lambda f: mx.jvp(tangent(f), [X], [XS[0]]),
    "grad of jvp": lambda f: mx.grad(lambda x: (tangent(f)(x) ** 2).sum())(X),
    "checkpoint": lambda f: mx.grad(mx.checkpoint(loss(f)))(X, W),
    "vmap": lambda f: mx.vmap(y(f), (0, None))(XS, W),
    "axis 1": lambda f: mx.vmap(y(f), (1, 1), 1)(XS.T, WS.T),
    "nested vmap": lambda f: mx.vmap(mx.vmap(y(f), (None, 0)), (0, None))(XS, WS),
    "per example": lambda f: mx.vmap(mx.grad(loss(f), BOTH), (1, None))(XS.T, W),
    "per example twice": lambda f: mx.vmap(mx.grad(penalty(f), BOTH))(XS, WS),
    "shared weights": lambda f: mx.grad(total(f), BOTH)(XS, W),
    "shared twice": lambda f: mx.grad(lambda x, w: (mx.grad(total(f), 1)(x, w) ** 2).sum(), BOTH)(
        XS, W
    ),
}


def leaves(tree):
    if isinstance(tree, mx.array):
        return [tree]
    parts = [tree[k] for k in sorted(tree)] if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]


def check(transform, f, rtol):
    expected, found = leaves(transform(rotations(mx))), leaves(transform(f))
    assert len(found) == len(expected)
    for y, truth in zip(found, expected, strict=True):
        assert (y.shape, y.dtype) == (truth.shape, truth.dtype)
        scale = 1 + np.abs(np.array(truth)).max()
        np.testing.assert_allclose(np.array(y), np.array(truth), rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_every_transformation(transform):
    options = {"dtype": "float64", "out": results}
    check(transform, numpy2mlx(rotations(np), gradient=SHIFTS, **options), 1e-5)
    check(transform, numpy2mlx(rotations(np), gradient=SHIFTS), 1e-4)


DIFFERENCES = FiniteDifference(accuracy=6)
RULES = [
    *(DIFFERENCES, FiniteDifference(accuracy=6, strategy="forward")),
    *(ComplexStep(then=DIFFERENCES), {"x": DIFFERENCES, "w": SHIFTS}),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("transform", ["grad", "jvp", "grad of grad", "per example"])
def test_every_rule(transform, rule):
    f = numpy2mlx(rotations(np), gradient=rule, dtype="float64")
    check(TRANSFORMS[transform], f, 1e-2)


USERS = [
    Vjp(lambda p, c, y: c * y / np.tan(p[0]), then=SHIFTS),
    Jvp(lambda p, t: (np.sin(p[0]).prod() / np.tan(p[0])) @ t[0], then=SHIFTS),
    Jacobian(lambda x: np.sin(x).prod() / np.tan(x), then=SHIFTS),
]


@pytest.mark.parametrize("rule", USERS, ids=lambda rule: type(rule).__name__)
def test_derivatives_of_the_user(rule):
    f = numpy2mlx(lambda x: np.sin(x).prod(), gradient=rule, dtype="float64")
    g = lambda x: mx.sin(x).prod()
    for transform in (
        lambda f: mx.grad(f)(X),
        lambda f: mx.jvp(f, [X], [XS[0]])[1][0],
        lambda f: mx.vmap(mx.grad(f))(XS),
        lambda f: mx.grad(lambda x: (mx.grad(f)(x) ** 2).sum())(X),
    ):
        np.testing.assert_allclose(transform(f), transform(g), rtol=1e-5, atol=1e-5)


def test_complex_numbers_follow_mlx():
    z, c = mx.array([0.3 + 0.4j, -1.2 + 0.1j]), mx.array([1 + 2j, -0.5 + 0.3j])
    f = numpy2mlx(lambda z: z**2 * np.conj(z), gradient=DIFFERENCES, dtype="float64")
    g = lambda z: z * z * mx.conj(z)
    norm = lambda f: lambda z: (mx.real(f(z)) ** 2 + 3 * mx.imag(f(z))).sum()
    for transform in (
        lambda f: mx.vjp(f, [z], [c])[1][0],
        lambda f: mx.jvp(f, [z], [c])[1][0],
        lambda f: mx.grad(norm(f))(z),
        lambda f: mx.vmap(mx.grad(norm(f)))(mx.stack([z, c])),
    ):
        found, expected = transform(f), transform(g)
        assert found.dtype == mx.complex64
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_points_and_calls():
    points = []
    fn = lambda x: points.append(len(x)) or np.cos(x).prod(1)
    f = numpy2mlx(fn, gradient=SHIFTS, vectorized=True, out=SINGLE)
    mx.eval(mx.value_and_grad(f)(W))
    mx.eval(mx.vmap(mx.grad(f))(WS))
    assert points[:2] == [1, 6]
    assert points[-1] == 6 * 4
    assert sum(points) <= 1 + 6 + 4 + 24  # at no made-up values
    assert (f.evaluations, f.calls) == (sum(points), len(points))
    forward = FiniteDifference(accuracy=1, strategy="forward")
    for rule, expected in {SHIFTS: [1, 6], forward: [1, 3]}.items():
        points.clear()
        f = numpy2mlx(fn, gradient=rule, vectorized=True, out=SINGLE)
        mx.eval(mx.value_and_grad(f)(W))
        assert points == expected
    points.clear()
    mx.eval(mx.value_and_grad(numpy2mlx(fn, gradient=SHIFTS, vectorized=True))(W))
    assert points == [1, 1, 6]  # the first to see what it returns


def test_exceptions_and_refusals():
    def fails(x):
        if x[1] > 0:
            raise LookupError("no answer")
        return np.cos(x).prod()

    with pytest.raises(LookupError, match="no answer") as error:
        mx.eval(mx.grad(numpy2mlx(fails, gradient=SHIFTS, out=SINGLE))(X))
    text = "fails was evaluated for a derivative, at x[1] shifted by 1.5708."
    assert text in error.value.__notes__
    with pytest.raises(NoRuleError, match=r"argument x of fails has no .*`gradient=`"):
        mx.grad(numpy2mlx(fails, out=SINGLE))(X)
    with pytest.raises(OptionError, match="takes 4 points, and max_points=3"):
        mx.eval(mx.grad(numpy2mlx(fails, gradient=SHIFTS, out=SINGLE, max_points=3))(X))
    with pytest.raises(ArgumentError, match=r'complex128\[2\].* dtype="float64"'):
        numpy2mlx(lambda x: x + 1j * np.ones(2))(X)
    with pytest.raises(NoValuesError, match=r"cannot be a part of what mx\.compile"):
        mx.compile(numpy2mlx(fails, out=SINGLE))(X)


def test_trees_keywords_static_arguments_and_numbers():
    def fn(p, mode, *, n, scale=1.0):
        waves = getattr(np, mode)(p["w"] * np.float32(n)).sum() * np.sin(3 * p["b"][0])
        return [waves * np.float32(scale), (n + 1, 2.5, np.float32(3))]

    rules = {"p['w']": ParameterShift((2.0,)), "p['b']": ParameterShift((3.0,))}
    f = numpy2mlx(fn, gradient=rules, static_argnames="mode")
    p = {"w": X, "b": [mx.array(0.4)]}
    value, rest = f(p, "sin", n=mx.array(2), scale=2.0)
    found = mx.grad(lambda p: f(p, "sin", n=mx.array(2), scale=2.0)[0])(p)
    x = np.array(X)
    np.testing.assert_allclose(value, np.sin(2 * x).sum() * np.sin(1.2) * 2, rtol=1e-5)
    np.testing.assert_allclose(found["w"], 4 * np.cos(2 * x) * np.sin(1.2), rtol=1e-4)
    np.testing.assert_allclose(found["b"][0], 6 * np.sin(2 * x).sum() * np.cos(1.2), rtol=1e-4)
    assert isinstance(rest, tuple)
    assert [r.item() for r in rest] == [3, 2.5, 3]
    assert (rest[0].dtype, rest[1].dtype) == (mx.int32, mx.float32)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_is_rounded_once(dtype):
    x = X.astype(dtype)
    f = numpy2mlx(lambda x: np.cos(x).prod(), gradient=SHIFTS, dtype="float64")
    value, found = mx.value_and_grad(f)(x)
    at = np.array(x.astype(mx.float32)).astype(float)
    expected = mx.array((-np.sin(at) * np.cos(at[::-1])).astype(np.float32)).astype(dtype)
    assert (value.dtype, found.dtype) == (dtype, dtype)
    assert mx.array_equal(found, expected)


def test_empty_batches():
    f = numpy2mlx(lambda x: np.cos(x).prod(), gradient=SHIFTS, out=SINGLE)
    assert mx.vmap(f)(mx.zeros((0, 2))).shape == (0,)
    assert mx.vmap(f)(mx.zeros((1, 2))).shape == (1,)


def test_keys():
    fn = lambda x, *, rng: np.float32(np.sin(x).sum() + rng.normal())
    f = numpy2mlx(fn, gradient=SHIFTS, out=SINGLE)
    key, keys = mx.random.key(3), mx.random.split(mx.random.key(4), 3)
    for call in (lambda x, key: f(x, rng=key), mx.grad(lambda x, key: f(x, rng=key))):
        found = np.array(call(X, key))
        np.testing.assert_array_equal(np.array(call(X, mx.random.key(3))), found)
        alone = np.stack([np.array(call(X, k)) for k in keys])
        np.testing.assert_allclose(np.array(mx.vmap(call, (None, 0))(X, keys)), alone, rtol=1e-5)
        assert len({*alone.ravel()}) == alone.size
    with pytest.raises(ArgumentError, match=r"draws random numbers.* `rng=`"):
        f(X)
