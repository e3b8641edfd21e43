"""Loops, branches, callbacks and random keys of JAX within bridged functions."""

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above
from tests.points import RANDOM, X, leaf  # noqa: E402


def scanned(x):
    def step(carry, _):
        return jnp.sin(carry) + x, carry.sum()

    last, sums = jax.lax.scan(step, x, None, length=3)
    return last * sums.sum()


def looped(x):
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) + x, x)


def branched(x):
    return jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)


def switched(x):
    return jax.lax.switch(2, [jnp.sin, jnp.cos, jnp.exp], x)


def native_scanned(x):
    carry, sums = x, 0
    for _ in range(3):
        carry, sums = torch.sin(carry) + x, sums + carry.sum()
    return carry * sums


def native_looped(x):
    y = x
    for _ in range(3):
        y = torch.sin(y) + x
    return y


WEIGHTS = RANDOM.normal(size=(4, 4)).astype("float32")
JAX_WEIGHTS = jnp.asarray(WEIGHTS)
CONTENT = {
    "scan": (scanned, native_scanned),
    "fori_loop": (looped, native_looped),
    "cond": (branched, torch.sin),
    "switch": (switched, torch.exp),
    "checkpoint": (jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), lambda x: x.sin().sin()),
    "jit": (jax.jit(lambda x: jnp.sin(x) * x), lambda x: x.sin() * x),
    "jit inside": (lambda x: jax.jit(jnp.sin)(x) * x, lambda x: x.sin() * x),
    "vmap inside": (jax.vmap(lambda x: jnp.sin(x) * x), lambda x: x.sin() * x),
    "grad inside": (jax.grad(lambda x: jnp.sin(x).sum()), torch.cos),
    "hessian inside": (jax.hessian(lambda x: (x**4).sum()), lambda x: torch.diag(12 * x**2)),
    "closed-over constant": (lambda x: JAX_WEIGHTS @ x, lambda x: _weights(x) @ x),
    "closed-over NumPy constant": (lambda x: WEIGHTS @ x, lambda x: _weights(x) @ x),
    "partial": (functools.partial(jnp.multiply, 3.0), lambda x: 3 * x),
    "ufunc": (jnp.sin, torch.sin),
}


def _weights(x):
    return torch.tensor(WEIGHTS).to(x.dtype)


@pytest.mark.parametrize(("function", "native"), CONTENT.values(), ids=CONTENT)
def test_content_equals_native(function, native):
    x = leaf()
    found, expected = jax2torch(function)(x), native(x)
    torch.testing.assert_close(found, expected)
    given = torch.rand(expected.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        torch.autograd.grad(found, x, given), torch.autograd.grad(expected, x, given)
    )


@pytest.mark.parametrize("name", ["scan", "fori_loop", "cond", "checkpoint", "jit"])
def test_content_in_second_order_equals_native(name):
    function, native = CONTENT[name]
    x = torch.tensor(X, dtype=torch.float64)
    second = lambda f: torch.func.hessian(lambda x: (f(x) ** 2).sum())(x)
    torch.testing.assert_close(second(jax2torch(function)), second(native))


def test_while_loop_has_values_and_forward_mode():
    def doubled(x):
        return jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: 2 * y, x)

    x = torch.tensor(X)
    times = 2 ** int(np.ceil(np.log2(100 / X.sum())))
    torch.testing.assert_close(jax2torch(doubled)(x), times * x)
    _, tangent = torch.func.jvp(jax2torch(doubled), (x,), (torch.ones(4),))
    torch.testing.assert_close(tangent, torch.full((4,), float(times)))


def test_gradient_of_a_while_loop_is_the_error_of_jax():
    def doubled(x):
        return jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: 2 * y, x).sum()

    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax2torch(doubled)(leaf()).backward()


def test_values_of_a_while_loop_do_not_need_its_gradient():
    """A leaf that requires grad is no reason to fail under no_grad."""

    def doubled(x):
        return jax.lax.while_loop(lambda y: y.sum() < 100, lambda y: 2 * y, x)

    with torch.no_grad():
        assert jax2torch(doubled)(leaf()).sum() >= 100


def test_print_inside_is_executed_at_every_call(capfd):
    def loud(x):
        jax.debug.print("sum {}", x.sum())
        return x

    f = jax2torch(loud)
    for _ in range(3):
        f(torch.ones(2))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("sum 2.0") == 3


def test_callback_inside_is_executed():
    host = lambda x: np.sin(x)

    def function(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    x = torch.tensor(X)
    torch.testing.assert_close(jax2torch(function)(x), x.sin())


def test_random_numbers_follow_the_key():
    f = jax2torch(lambda key, x: x + jax.random.normal(key, x.shape))
    one, two = jax.random.key(1), jax.random.key(2)
    x = torch.zeros(4)
    expected = torch.tensor(np.asarray(jax.random.normal(one, (4,))))
    torch.testing.assert_close(f(one, x), expected)
    assert not torch.equal(f(one, x), f(two, x))
