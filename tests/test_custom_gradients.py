"""Functions of JAX with rules of their own, for gradients or tangents, in every derivative."""

import numpy as np
import pytest

from tests.conftest import wrapper
from tests.kits import kit

jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([0.3, -1.2, 0.7], "float32")
T = np.array([1.5, 0.25, -2.0], "float32")


@pytest.fixture(params=["torch", "mlx"])
def target(request):
    return kit(request.param)


def with_vjp(fn, bwd, fwd=None):
    """`fn` with the gradient rule `bwd(x, cotangent)`."""
    custom = jax.custom_vjp(fn)
    custom.defvjp(fwd or (lambda x: (fn(x), x)), lambda x, g: (bwd(x, g),))
    return custom


# The gradient of `sin` times 3, so that a rule that was passed over shows.
triple = with_vjp(jnp.sin, lambda x, g: 3 * jnp.cos(x) * g)
straight = with_vjp(lambda x: jnp.round(x), lambda x, g: g)
clipped = with_vjp(jnp.sin, lambda x, g: jnp.clip(g, -1, 1) * jnp.cos(x))
guarded = with_vjp(jnp.sin, lambda x, g: jnp.where(x > 0, 3 * jnp.cos(x) * g, 0))


@jax.custom_jvp
def tangent_rule(x):
    return jnp.sin(x)


@tangent_rule.defjvp
def _(primals, tangents):
    return jnp.sin(primals[0]), 7 * tangents[0]


def looped(x):
    return jax.lax.scan(lambda c, _: (triple(c) * x, c.sum()), x, None, length=3)[0]


def branched(x):
    return jax.lax.cond(x.sum() > 0, triple, lambda x: x * x, x)


def several(x):
    return triple(x).sum() * straight(2 * x) + tangent_rule(x)


FUNCTIONS = {
    "one": triple,
    "straight through": straight,
    "masked": guarded,
    "loop": looped,
    "branch": branched,
    "with a jvp": several,
    "jitted": jax.jit(lambda x: triple(triple(x))),
    "remat": jax.checkpoint(lambda x: triple(x) ** 2),
    "mapped": lambda x: jax.vmap(lambda a: triple(a) * x.sum())(x),
}


def jacobian(fn):
    return np.asarray(jax.jacrev(fn)(jnp.asarray(X)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("jit", [True, False])
def test_tangents_are_those_of_the_gradient(target, name, jit):
    fn = FUNCTIONS[name]
    crossed = wrapper("jax", target.name)(fn, jit=jit)
    tangent = target.numpy(target.jvp(crossed, (target.array(X),), (target.array(T),)))
    np.testing.assert_allclose(tangent, jacobian(fn) @ T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians_and_hessians_in_torch(name):
    torch = pytest.importorskip("torch")
    fn, x = FUNCTIONS[name], torch.tensor(X)
    crossed = wrapper("jax", "torch")(fn)
    forward = torch.func.jacfwd(crossed)(x)
    np.testing.assert_allclose(forward.numpy(), jacobian(fn), rtol=1e-5, atol=1e-6)
    loss = lambda x: (fn(x) * T).sum()
    true = jax.jacrev(jax.grad(loss))(jnp.asarray(X))
    weighted = lambda x: (crossed(x) * torch.tensor(T)).sum()
    for transform in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacfwd(f))):
        np.testing.assert_allclose(transform(weighted)(x).numpy(), true, rtol=1e-4, atol=1e-5)


def test_complex_tangents_follow_the_gradient(target):
    # Neither holomorphic nor symmetric: z -> conj(z) * a + z**2.
    a = np.complex64(0.5 + 2j)
    true = lambda z: jnp.conj(z) * a + z * z
    bwd = lambda z, g: jax.vjp(true, z)[1](g)[0]
    z = np.array([0.3 - 1j, 1.2 + 0.5j], "complex64")
    t = np.array([1 + 2j, -0.5 + 0.25j], "complex64")
    crossed = wrapper("jax", target.name)(with_vjp(true, bwd))
    tangent = target.numpy(target.jvp(crossed, (target.array(z),), (target.array(t),)))
    np.testing.assert_allclose(tangent, jax.jvp(true, (z,), (t,))[1], rtol=1e-5)


def test_a_jvp_of_the_user_wins(target):
    crossed = wrapper("jax", target.name)(tangent_rule)
    tangent = target.numpy(target.jvp(crossed, (target.array(X),), (target.array(T),)))
    np.testing.assert_allclose(tangent, 7 * T, rtol=1e-6)


@pytest.mark.parametrize("jit", [True, False])
def test_gradients_that_are_not_linear_have_no_tangents(target, jit):
    crossed = wrapper("jax", target.name)(lambda x: clipped(x), jit=jit)
    with pytest.raises(NotImplementedError, match=r"is not linear in the cotangent.*custom_jvp"):
        target.numpy(target.jvp(crossed, (target.array(X),), (target.array(T),)))
    gradient = target.grad(lambda x: (crossed(x) * 5).sum())(target.array(X))
    np.testing.assert_allclose(target.numpy(gradient), np.cos(X), rtol=1e-5)


def test_batches_of_tangents():
    torch = pytest.importorskip("torch")
    crossed = wrapper("jax", "torch")(triple)
    xs, ts = np.stack([X, X + 1]), np.stack([T, T * 2])
    push = lambda x, t: torch.func.jvp(crossed, (x,), (t,))[1]
    found = torch.func.vmap(push)(torch.tensor(xs), torch.tensor(ts))
    np.testing.assert_allclose(found.numpy(), 3 * np.cos(xs) * ts, rtol=1e-5)


def test_dual_numbers_of_torch():
    torch = pytest.importorskip("torch")
    crossed = wrapper("jax", "torch")(triple)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.tensor(X), torch.tensor(T))
        tangent = torch.autograd.forward_ad.unpack_dual(crossed(dual)).tangent
    np.testing.assert_allclose(tangent.numpy(), 3 * np.cos(X) * T, rtol=1e-5)
