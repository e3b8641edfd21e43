"""Bridged functions that call bridged functions: every derivative goes through both bridges."""

import numpy as np
import pytest

from tests.conftest import DIRECTIONS, wrapper
from tests.kits import kit

PATHS = [
    (*first, last) for first in DIRECTIONS for middle, last in DIRECTIONS if middle == first[1]
]
CIRCLES = [path for path in PATHS if path[0] == path[2] == "jax"]
X = np.array([0.3, -1.2, 0.7], "float32")
Y = np.array([0.9, 0.4, -0.8], "float32")
T = np.array([1.0, -0.5, 0.25], "float32")
ROWS = np.stack([X, -0.5 * Y, Y + 0.2])


def total(f):
    return lambda *xs: f(*xs).sum()


def contracted(k, f, t):
    return lambda x, y: (k.grad(total(f))(x, y) * t).sum()


# Functions of x, y, rows and t in a framework, given its kit and a function of x and y.
USES = {
    "value": lambda k, f, x, y, rows, t: f(x, y),
    "grad": lambda k, f, x, y, rows, t: k.grad(total(f), argnums=1)(x, y),
    "vmap": lambda k, f, x, y, rows, t: k.vmap(f, (1, None))(rows.T, y),
    "jvp": lambda k, f, x, y, rows, t: k.jvp(f, (x, y), (t, x)),
    "vmap of grad": lambda k, f, x, y, rows, t: k.vmap(k.grad(total(f)), (0, None))(rows, y),
    "grad of vmap": lambda k, f, x, y, rows, t: k.grad(total(k.vmap(f, (0, None))), argnums=1)(
        rows, y
    ),
    "jvp of grad": lambda k, f, x, y, rows, t: k.jvp(k.grad(total(f)), (x, y), (t, x)),
    "grad of grad": lambda k, f, x, y, rows, t: k.grad(contracted(k, f, t))(x, y),
    "third": lambda k, f, x, y, rows, t: k.grad(
        lambda x, y: (k.grad(contracted(k, f, t), argnums=1)(x, y) * t).sum()
    )(x, y),
    "vmap of jvp of grad": lambda k, f, x, y, rows, t: k.vmap(
        lambda e: k.jvp(k.grad(total(f)), (x, y), (e, x))
    )(rows),
    "grad of vmap of jvp": lambda k, f, x, y, rows, t: k.grad(
        lambda t: (k.vmap(lambda x: k.jvp(f, (x, y), (t, t)))(rows) * x).sum()
    )(t),
}


LONG = {"jvp of grad", "grad of vmap", "grad of vmap of jvp"}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in USES]


def use(k, f, name):
    return k.numpy(USES[name](k, f, *map(k.array, (X, Y, ROWS, T))))


@pytest.fixture(params=sorted({*PATHS} - {*CIRCLES}), ids="2".join)
def path(request):
    """Kits: where a function is from, what calls it, and where that is called from."""
    return tuple(map(kit, request.param))


@pytest.mark.parametrize("name", NAMES)
def test_functions_within_functions(path, name):
    home, middle, away = path
    inner = wrapper(home.name, middle.name)(lambda x, y: home.xp.sin(x) * (x * y).sum())
    outer = wrapper(middle.name, away.name)(lambda x, y: middle.xp.exp(inner(x, y) * 0.5) * y)
    native = lambda x, y: away.xp.exp(away.xp.sin(x) * (x * y).sum() * 0.5) * y
    found, expected = use(away, outer, name), use(away, native, name)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("path", CIRCLES, ids="2".join)
def test_a_computation_of_jax_within_one_of_jax_is_refused(path):
    """JAX may wait forever for a computation that one of its own waits for."""
    home, middle, away = map(kit, path)
    inner = wrapper(home.name, middle.name)(home.xp.sin)
    outer = wrapper(middle.name, away.name)(lambda x: inner(x) * 2)
    with pytest.raises(Exception, match="runs inside of a JAX computation, and called JAX"):
        outer(away.array(X))


def test_a_chain_of_three_bridges():
    """What MLX calls calls MLX, which calls another framework."""
    away, middle = kit("mlx"), kit("torch")
    inner = wrapper("torch", "mlx")(middle.xp.sin)
    twice = wrapper("mlx", "torch")(lambda x: inner(x) * x)
    f = wrapper("torch", "mlx")(lambda x: twice(x) * x)
    native = lambda x: away.xp.sin(x) * x * x
    for name in ("value", "grad", "vmap", "jvp", "vmap of grad", "grad of vmap", "grad of grad"):
        found, expected = (use(away, lambda x, y, f=f: f(y) * x, name) for f in (f, native))
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_a_call_in_a_rule_of_the_user():
    """MLX keeps every graph there: nothing looks like a constant."""
    mx, torch = kit("mlx").xp, kit("torch").xp
    f = wrapper("mlx", "torch")(lambda x: mx.sin(x) * x.sum())
    seen = []
    ruled = mx.custom_function(lambda x: x * 1)

    @ruled.vjp
    def _(primals, cotangent, output):
        x = torch.tensor(X, requires_grad=True)
        f(x).sum().backward()
        seen.append(x.grad)
        return cotangent * 2

    assert mx.grad(lambda x: ruled(x).sum())(mx.array(X)).tolist() == [2, 2, 2]
    x = torch.tensor(X)
    torch.testing.assert_close(seen, [x.cos() * x.sum() + x.sin().sum()])


@pytest.mark.parametrize("source", ["jax", "mlx"])
@pytest.mark.parametrize("name", NAMES)
def test_a_first_call_within_transformations_of_torch(name, source):
    """What torch computes for others is no part of them, though it runs in the same thread."""
    torch, other = kit("torch"), kit(source)
    there = wrapper("torch", source)(lambda x: torch.xp.sin(x) ** 2)

    def user(x, y):
        return x * y * float(there(other.array(Y))[0])

    expected = use(torch, lambda x, y: x * y * float(np.sin(Y[0]) ** 2), name)
    np.testing.assert_allclose(use(torch, user, name), expected, rtol=1e-5)
