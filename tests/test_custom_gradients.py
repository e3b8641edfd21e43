"""Functions of JAX with rules of their own, for gradients or tangents, in every derivative."""

import numpy as np
import pytest

from tests.conftest import wrapper

jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([0.3, -1.2, 0.7], "float32")
T = np.array([1.5, 0.25, -2.0], "float32")


def with_vjp(fn, bwd, fwd=None):
    """`fn` with the gradient rule `bwd(x, cotangent)`."""
    custom = jax.custom_vjp(fn)
    custom.defvjp(fwd or (lambda x: (fn(x), x)), lambda x, g: (bwd(x, g),))
    return custom


# The gradient of `sin` times 3, so that a rule that was passed over shows.
triple = with_vjp(jnp.sin, lambda x, g: 3 * jnp.cos(x) * g)
straight = with_vjp(lambda x: jnp.round(x), lambda x, g: g)
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


NOT_LINEAR = {
    "clipped": lambda x, g: jnp.clip(g, -1, 1) * jnp.cos(x),
    "clipped by a norm": lambda x, g: g * jnp.minimum(1, 1 / jnp.linalg.norm(g)),
    "squared": lambda x, g: g * g,
    "signs": lambda x, g: jnp.sign(g) * x,
    "rounded": lambda x, g: jnp.round(g),
    "integers": lambda x, g: g.astype(int).astype(g.dtype),
    "with a stopped gradient": lambda x, g: jax.lax.stop_gradient(g) * x,
    "by its own sign": lambda x, g: jnp.where(g > 0, g, 2 * g),
    "without its cotangent": lambda x, g: jnp.cos(x),
    "ones": lambda x, g: np.ones(3, "float32"),
    "with an addend": lambda x, g: 2 * g + x,
    "with noise": lambda x, g: g + jax.random.normal(jax.random.key(0), g.shape),
}


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("kind", NOT_LINEAR)
def test_gradients_that_are_not_linear_have_no_tangents(target, kind, jit):
    custom = with_vjp(jnp.sin, NOT_LINEAR[kind])
    crossed = wrapper("jax", target.name)(lambda x: 2 * custom(jnp.exp(x)), jit=jit)
    with pytest.raises(NotImplementedError, match=r"is not linear in the cotangent.*custom_jvp"):
        target.numpy(target.jvp(crossed, (target.array(X),), (target.array(T),)))
    gradient = target.grad(lambda x: (crossed(x) * 5).sum())(target.array(X))
    y = np.exp(X)
    expected = y * np.asarray(NOT_LINEAR[kind](jnp.asarray(y), jnp.full(3, 10.0)))
    np.testing.assert_allclose(target.numpy(gradient), expected, rtol=1e-5)


ZERO = jnp.zeros(3)
LINEAR = {  # each maps cotangents to gradients, and is its own transpose
    "masked": lambda x, g: jnp.where(x > 0, 3 * g, 0),
    "divided": lambda x, g: g / (2 + x),
    "without its mean": lambda x, g: g - g.mean(),
    "of lower precision": lambda x, g: (g * x).astype("bfloat16").astype("float32"),
    "zeros": lambda x, g: jnp.zeros_like(x),
    "zeros from outside": lambda x, g: ZERO,
    "jitted zeros from outside": jax.jit(lambda x, g: g + ZERO),
    "checkpointed": jax.checkpoint(lambda x, g: g * x),
    "products with 0": lambda x, g: x * 0.0,
    "reversed twice": lambda x, g: (g[::-1] * x.sum())[::-1],
    "padded": lambda x, g: jnp.pad(g, 1)[1:-1],
    "of a matrix": lambda x, g: jnp.einsum("i,j,j", x, x, g),
    "a solution": lambda x, g: jnp.linalg.solve(jnp.eye(3) * 3 + jnp.outer(x, x), g),
    "a loop": lambda x, g: jax.lax.fori_loop(0, 3, lambda i, a: a * x, g),
    "a scan": lambda x, g: jax.lax.scan(lambda c, y: (c, c * y), x.sum(), g)[1],
    "a branch": lambda x, g: jax.lax.cond(x.sum() > 0, lambda a: a, lambda a: 2 * a, g),
    "of another rule": lambda x, g: jax.vjp(triple, x)[1](g)[0],
    "of a softmax": lambda x, g: jax.vjp(jax.nn.softmax, x)[1](g)[0],
}


@pytest.mark.parametrize("kind", LINEAR)
def test_gradients_that_are_linear_have_tangents(target, kind):
    rule = LINEAR[kind]
    crossed = wrapper("jax", target.name)(with_vjp(jnp.sin, rule))
    tangent = target.numpy(target.jvp(crossed, (target.array(X),), (target.array(T),)))
    np.testing.assert_allclose(tangent, rule(jnp.asarray(X), jnp.asarray(T)), rtol=1e-2, atol=1e-6)


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


def called_back(fn, x):
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda x: fn(x).astype(x.dtype), result, x, vmap_method="sequential")


cosine_of_host = with_vjp(jnp.sin, lambda x, g: g * called_back(np.cos, x))


@pytest.mark.parametrize("residuals", ["auto", "save", "recompute"])
@pytest.mark.parametrize("reduce", [False, True])
def test_a_gradient_by_a_callback_has_no_second_one(residuals, reduce):
    torch = pytest.importorskip("torch")
    fn = (lambda x: cosine_of_host(x).sum()) if reduce else cosine_of_host
    crossed = wrapper("jax", "torch")(fn, residuals=residuals)
    x = torch.tensor(X, requires_grad=True)
    for way in (torch.func.grad(lambda x: crossed(x).sum()), None):
        if way is None:
            (gradient,) = torch.autograd.grad(crossed(x).sum(), x, create_graph=True)
        else:
            gradient = way(torch.tensor(X))
        np.testing.assert_allclose(gradient.detach().numpy(), np.cos(X), rtol=1e-6)
    with pytest.raises(ValueError, match="Pure callbacks do not support JVP"):
        torch.autograd.grad(gradient.sum(), x)


def refusing(x, y):
    """`x * y`, with a rule that refuses to be differentiated by `y`."""
    custom = jax.custom_vjp(lambda x, y: x * y)

    def fwd(x, y):
        if y.perturbed:
            raise ZeroDivisionError("not by y")
        return x.value * y.value, y.value

    custom.defvjp(fwd, lambda y, g: (g * y, None), symbolic_zeros=True)
    return custom(x, y)


def without_rule(x, y):
    return x * called_back(np.cos, y)


def equinox_refusing(x, y):
    import equinox

    return x * jnp.cos(equinox.internal.nondifferentiable(y))


def linear_called(x, y):
    forward, transpose = (lambda y, x: x * jnp.cos(y)), (lambda y, g: g * jnp.cos(y))
    return jax.custom_derivatives.linear_call(forward, transpose, jax.lax.stop_gradient(y), x)


ONE_SIDED = {
    "symbolic_zeros": (refusing, lambda x, y: y),
    "callback": (without_rule, lambda x, y: np.cos(y)),
    "linear_call": (linear_called, lambda x, y: np.cos(y)),
    "equinox": (equinox_refusing, lambda x, y: np.cos(y)),
}


@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize("residuals", ["auto", "save", "recompute"])
def test_only_what_is_wanted_is_differentiated(target, name, residuals):
    if name == "equinox":
        pytest.importorskip("equinox.internal")
    fn, slope = ONE_SIDED[name]
    crossed = wrapper("jax", target.name)(fn, residuals=residuals)
    x, y = target.array(X), target.array(T)
    for _ in range(2):
        gradient = target.grad(lambda x: crossed(x, y).sum())(x)
        np.testing.assert_allclose(target.numpy(gradient), slope(X, T), rtol=1e-5)
        values = target.numpy(crossed(x, y))
        np.testing.assert_allclose(values, X * slope(X, T), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "error"),
    [("symbolic_zeros", "not by y"), ("callback", "Pure callbacks"), ("equinox", "ifferentia")],
)
def test_what_a_rule_refuses_raises_its_own_error(target, name, error):
    if name == "equinox":
        pytest.importorskip("equinox.internal")
    crossed = wrapper("jax", target.name)(ONE_SIDED[name][0])
    x, y = target.array(X), target.array(T)
    with pytest.raises(Exception, match=error):
        target.numpy(target.grad(lambda y: crossed(x, y).sum())(y))
