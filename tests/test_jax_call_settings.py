"""Settings of JAX around a call of one of its functions, and around the derivatives of that."""

import threading

import numpy as np
import pytest

from tests.conftest import wrapper

jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([0.3, -1.2, 0.7], "float32")


def drawn(x):
    """Random numbers, which depend on how JAX makes them."""
    return x * jax.random.normal(jax.random.key(7), x.shape)


def precise(x):
    """A number that tells the precision in which products are computed."""
    (equation,) = jax.make_jaxpr(lambda a: a @ a)(jnp.eye(2)).eqns
    return x * len(str(equation.params["precision"]))


@jax.custom_vjp
def noisy(x):
    return jnp.sin(x)


noisy.defvjp(lambda x: (noisy(x), x), lambda x, g: (drawn(g) * precise(jnp.cos(x)),))

REFUSALS = (ValueError, FloatingPointError)
SETTINGS = {
    "threefry": (lambda: jax.threefry_partitionable(False), drawn),
    "generator": (lambda: jax.default_prng_impl("rbg"), drawn),
    "precision": (lambda: jax.default_matmul_precision("highest"), precise),
    "x64": (lambda: jax.enable_x64(True), lambda x: x * jnp.zeros(1).dtype.itemsize),
    "mesh": (
        lambda: jax.set_mesh(jax.make_mesh((1,), ("rows",))),
        lambda x: x * len(jax.sharding.get_abstract_mesh().axis_names),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("within_first", [False, True])
def test_calls_follow_settings(target, name, within_first):
    setting, fn = SETTINGS[name]
    traces = []

    def noted(x):
        traces.append(1)
        return fn(x)

    crossed, x = wrapper("jax", target.name)(noted), target.array(X)
    found, true = {}, {}
    for within in (within_first, not within_first, within_first, not within_first):
        if within:
            with setting():
                found[within], true[within] = target.numpy(crossed(x)), np.asarray(fn(X))
        else:
            found[within], true[within] = target.numpy(crossed(x)), np.asarray(fn(X))
        np.testing.assert_allclose(found[within], true[within], rtol=1e-6)
    assert not np.array_equal(found[True], found[False])
    assert len(traces) == 2


@pytest.mark.parametrize("name", ["threefry", "generator", "precision"])
@pytest.mark.parametrize("residuals", ["save", "recompute", "auto"])
def test_gradients_have_the_settings_of_their_call(name, residuals):
    torch = pytest.importorskip("torch")
    setting = SETTINGS[name][0]
    crossed = wrapper("jax", "torch")(noisy, residuals=residuals)
    for within in (True, False, True):
        x = torch.tensor(X, requires_grad=True)
        if within:
            with setting():
                y = crossed(x)
                true = jax.grad(lambda x: noisy(x).sum())(X)
            (gradient,) = torch.autograd.grad(y.sum(), x)
        else:
            y = crossed(x)
            true = jax.grad(lambda x: noisy(x).sum())(X)
            with setting():
                (gradient,) = torch.autograd.grad(y.sum(), x)
        np.testing.assert_allclose(gradient.numpy(), true, rtol=1e-6)


@pytest.mark.parametrize("name", ["threefry", "precision"])
def test_second_derivatives_have_the_settings_of_their_call(name):
    torch = pytest.importorskip("torch")
    setting = SETTINGS[name][0]
    crossed = wrapper("jax", "torch")(noisy)
    x = torch.tensor(X, requires_grad=True)
    with setting():
        y = crossed(x)
        true = jax.grad(lambda x: (jax.grad(lambda x: noisy(x).sum())(x) ** 2).sum())(X)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((gradient**2).sum(), x)
    np.testing.assert_allclose(second.numpy(), true, rtol=1e-5)


def test_gradients_in_another_thread_have_the_settings_of_their_call():
    torch = pytest.importorskip("torch")
    crossed = wrapper("jax", "torch")(noisy)
    x = torch.tensor(X, requires_grad=True)
    with jax.threefry_partitionable(False):
        y = crossed(x)
        true = jax.grad(lambda x: noisy(x).sum())(X)
        thread = threading.Thread(target=lambda: y.sum().backward())
        thread.start()
        thread.join()
    np.testing.assert_allclose(x.grad.numpy(), true, rtol=1e-6)


def test_derivatives_of_mlx_have_the_settings_around_them():
    mx = pytest.importorskip("mlx.core")
    crossed = wrapper("jax", "mlx")(lambda x: noisy(x).sum())
    for within in (False, True, False):
        with jax.threefry_partitionable(not within):
            found = np.array(mx.grad(crossed)(mx.array(X)))
            true = jax.grad(lambda x: noisy(x).sum())(X)
        np.testing.assert_allclose(found, true, rtol=1e-6)


@pytest.mark.parametrize(
    ("setting", "fn"),
    [
        (lambda: jax.numpy_dtype_promotion("strict"), lambda x: x * jnp.arange(3)),
        (lambda: jax.numpy_rank_promotion("raise"), lambda x: x * jnp.ones((2, 3))),
        (lambda: jax.debug_nans(True), lambda x: jnp.log(x)),
        (lambda: jax.debug_infs(True), lambda x: x / 0),
    ],
)
def test_calls_are_checked_as_settings_ask(target, setting, fn):
    crossed, x = wrapper("jax", target.name)(fn), target.array(X)
    crossed(x)
    with setting():
        with pytest.raises(REFUSALS) as native:
            jax.block_until_ready(jax.jit(fn)(jnp.asarray(X)))
        with pytest.raises(native.type, match=str(native.value).split()[0]):
            crossed(x)
    crossed(x)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_gradients_have_the_mesh_of_their_call(residuals):
    torch = pytest.importorskip("torch")
    rows = jax.sharding.PartitionSpec("rows")

    def fn(x):
        y = jax.shard_map(lambda x: jnp.sin(x) * x, in_specs=rows, out_specs=rows)(x)
        return jax.lax.with_sharding_constraint(y * y, rows)

    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    x = torch.tensor(X, requires_grad=True)
    with jax.set_mesh(mesh):
        y = wrapper("jax", "torch")(fn, residuals=residuals)(x)
        true = jax.jit(jax.grad(lambda x: fn(x).sum()))(X)
    (gradient,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    np.testing.assert_allclose(gradient.numpy(), true, rtol=1e-5)
    with jax.set_mesh(jax.make_mesh((1,), ("others",))):
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), x)
    square = lambda x: ((jnp.sin(x) * x) ** 2).sum()
    hessian = jax.grad(lambda x: jax.grad(square)(x).sum())(X)
    np.testing.assert_allclose(gradient.detach().numpy(), true, rtol=1e-5)
    np.testing.assert_allclose(second.numpy(), hessian, rtol=1e-4)
