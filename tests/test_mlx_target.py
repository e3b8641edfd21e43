"""Functions called from MLX are, under its transformations, what the same function of MLX is."""

import functools

import numpy as np
import pytest

from bridge import _registry
from tests.conftest import wrapper
from tests.kits import kit

mx = pytest.importorskip("mlx.core")

SOURCES = [source for source, target in _registry.directions() if target == "mlx"]
X = mx.array([0.3, -1.25, 0.7])
ROWS = mx.array([[0.3, -1.25, 0.7], [1.5, 0.5, -0.25]])
BLOCK = mx.array(np.linspace(-1.3, 1.7, 12, dtype="float32").reshape(2, 2, 3))


def scalar(f):
    """A real number that weighs the outputs, and their imaginary parts, differently."""

    def weighted(*xs):
        y = f(*xs)
        weights = mx.arange(1.0, y.size + 1).reshape(y.shape)
        total = (mx.real(y) * weights).sum()
        return total + (mx.imag(y) * weights**2).sum() if y.dtype == mx.complex64 else total

    return weighted


def grad(f):
    return mx.grad(scalar(f))


def pushed(f, x):
    return mx.jvp(lambda x: [f(x)], [x], [mx.cos(x) + 2])[1][0]


def pulled(f, x):
    return mx.vjp(lambda x: [f(x)], [x], [mx.cos(x) + 2])[1][0]


# Each is applied to a function that keeps the shape of a vector, and to the vectors to call it on.
COMPOSITIONS = {
    "value": lambda f, x, *_: f(x),
    "grad": lambda f, x, *_: grad(f)(x),
    "value_and_grad": lambda f, x, *_: mx.value_and_grad(scalar(f))(x),
    "vjp": lambda f, x, *_: pulled(f, x),
    "jvp": lambda f, x, *_: pushed(f, x),
    "vmap": lambda f, _, rows, __: mx.vmap(f)(rows),
    "vmap other axes": lambda f, _, rows, __: mx.vmap(f, in_axes=1, out_axes=1)(rows.T),
    "vmap last axis": lambda f, _, rows, __: mx.vmap(f, in_axes=-1, out_axes=-1)(rows.T),
    "vmap of a part": lambda f, x, rows, _: mx.vmap(lambda a, b: f(a) * b, (0, None))(rows, x),
    "vmap of nothing": lambda f, x, rows, _: mx.vmap(lambda a: a + f(x))(rows),
    "vmap vmap": lambda f, _, __, block: mx.vmap(mx.vmap(f))(block),
    "vmap vmap other axes": lambda f, _, __, block: mx.vmap(mx.vmap(f, in_axes=1), 2, 1)(block),
    "grad grad": lambda f, x, *_: grad(grad(f))(x),
    "grad grad grad": lambda f, x, *_: grad(grad(grad(f)))(x),
    "grad f(grad f)": lambda f, x, *_: grad(lambda x: f(grad(f)(x)))(x),
    "grad of f times grad f": lambda f, x, *_: grad(lambda x: f(x) * grad(f)(x))(x),
    "grad f(f)": lambda f, x, *_: grad(lambda x: f(f(x)))(x),
    "grad vmap": lambda f, _, rows, __: grad(mx.vmap(f))(rows),
    "vmap grad": lambda f, _, rows, __: mx.vmap(grad(f))(rows),
    "vmap value_and_grad": lambda f, _, rows, __: mx.vmap(mx.value_and_grad(scalar(f)))(rows),
    "grad vmap grad": lambda f, _, rows, __: grad(mx.vmap(grad(f)))(rows),
    "vmap grad grad": lambda f, _, rows, __: mx.vmap(grad(grad(f)))(rows),
    "vmap vmap grad": lambda f, _, __, block: mx.vmap(mx.vmap(grad(f)))(block),
    "vmap grad vmap": lambda f, _, __, block: mx.vmap(grad(mx.vmap(f)))(block),
    "grad vmap vmap grad": lambda f, _, __, block: grad(mx.vmap(mx.vmap(grad(f))))(block),
    "grad grad vmap": lambda f, _, rows, __: grad(grad(mx.vmap(f)))(rows),
    "jvp grad": lambda f, x, *_: pushed(grad(f), x),
    "grad jvp": lambda f, x, *_: grad(lambda x: pushed(f, x))(x),
    "jvp jvp": lambda f, x, *_: pushed(lambda x: pushed(f, x), x),
    "jvp grad grad": lambda f, x, *_: pushed(grad(grad(f)), x),
    "vmap jvp": lambda f, _, rows, __: mx.vmap(lambda x: pushed(f, x))(rows),
    "jvp vmap": lambda f, _, rows, __: pushed(mx.vmap(f), rows),
    "jvp vmap grad": lambda f, _, rows, __: pushed(mx.vmap(grad(f)), rows),
    "vmap jvp grad": lambda f, _, rows, __: mx.vmap(lambda x: pushed(grad(f), x))(rows),
    "grad vmap jvp": lambda f, _, rows, __: grad(mx.vmap(lambda x: pushed(f, x)))(rows),
    "vjp vjp": lambda f, x, *_: pulled(lambda x: pulled(f, x), x),
    "grad by cotangents": lambda f, x, *_: grad(
        lambda ct: mx.vjp(lambda x: [f(x)], [x], [ct])[1][0]
    )(mx.cos(x)),
    "vmap of cotangents": lambda f, x, rows, _: mx.vmap(
        lambda ct: mx.vjp(lambda x: [f(x)], [x], [ct])[1][0]
    )(rows.astype(x.dtype)),
    "checkpoint": lambda f, x, *_: grad(mx.checkpoint(f))(x),
    "checkpoint grad": lambda f, x, *_: grad(mx.checkpoint(grad(f)))(x),
    "grad grad checkpoint": lambda f, x, *_: grad(grad(mx.checkpoint(f)))(x),
    "grad compile": lambda f, x, *_: grad(mx.compile(f))(x),
    "vmap compile": lambda f, _, rows, __: mx.vmap(mx.compile(f))(rows),
    "stop_gradient": lambda f, x, *_: grad(lambda x: mx.stop_gradient(f(x)) * f(x))(x),
}


def wave(xp, x):
    return xp.sin(x) * x * x + xp.cumsum(x, 0)


def two_of_two(xp, x, y):
    return xp.sin(x) * y, (x * y * y).sum()


def three_with_integers(xp, x, y):
    return xp.exp(x * y), xp.argsort(x), y * y * x


def of_complex(xp, z):
    return xp.exp(z * 0.5) * xp.conj(z) * (1 - 2j)


# The functions, and what makes of each one that keeps the shape of a vector.
FUNCTIONS = {
    "wave": (wave, lambda f: f),
    "two of two": (two_of_two, lambda f: lambda x: (lambda a, b: a * b)(*f(x, 2 + x))),
    "one of two": (two_of_two, lambda f: lambda x: f(mx.cos(x), x)[0]),
    "three, integers among them": (
        three_with_integers,
        lambda f: lambda x: (lambda a, i, b: a * b * i)(*f(x, x - 1)),
    ),
    "complex": (of_complex, lambda f: f),
    "complex inside": (of_complex, lambda f: lambda x: mx.imag(f(x * (1 + 2j)))),
}


@functools.cache
def called(source, name):
    function, use = FUNCTIONS[name]
    return use(wrapper(source, "mlx")(functools.partial(function, kit(source).xp)))


# What tells functions apart; the others are put through everything.
FEW = (
    "grad",
    "jvp",
    "vmap",
    "grad grad",
    "grad vmap grad",
    "vmap vmap grad",
    "jvp grad",
    "vmap jvp",
)
CASES = [
    (composition, name)
    for name in FUNCTIONS
    for composition in (COMPOSITIONS if name in ("wave", "two of two", "complex") else FEW)
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("composition", "name"), CASES)
def test_equals_the_same_function_of_mlx(source, name, composition):
    transform = COMPOSITIONS[composition]
    function, use = FUNCTIONS[name]
    native = use(functools.partial(function, mx))
    turn = 0.5 - 1.25j if name == "complex" else 1
    xs = [x * turn for x in (X, ROWS, BLOCK)]
    expected, found = (leaves(transform(f, *xs)) for f in (native, called(source, name)))
    assert [(y.shape, y.dtype) for y in found] == [(y.shape, y.dtype) for y in expected]
    for y, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(y), np.array(want), rtol=2e-4, atol=1e-4)


def leaves(results):
    return [results] if isinstance(results, mx.array) else [y for r in results for y in leaves(r)]
