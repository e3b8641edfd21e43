"""Settings of JAX around bridged calls, whose effect is that on functions of JAX itself."""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import bridge
from bridge import _registry
from tests.kits import bridged, kit
from tests.versions import older

X = np.array([-1.5, 2.0, 0.25], np.float32)
FROM_JAX = [d for d in _registry.directions() if d[1] == "jax"]
INTO_JAX = [d for d in _registry.directions() if d[0] == "jax"]


def direction(pairs):
    return pytest.mark.parametrize("pair", pairs, ids="2".join)


TRANSFORMS = {
    "eager": lambda f: f,
    "jit": jax.jit,
    "grad": lambda f: jax.grad(lambda x: f(x).sum()),
    "jit grad": lambda f: jax.jit(jax.grad(lambda x: f(x).sum())),
    "vmap": lambda f: lambda x: jax.vmap(f)(jnp.stack([x, x])),
    "jvp": lambda f: lambda x: jax.jvp(f, (x,), (x,)),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, x),
}


@direction(FROM_JAX)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_nan_is_found_as_of_functions_of_jax(pair, transform):
    source = kit(pair[0])
    f = transform(bridged(pair, source.xp.sqrt))
    with jax.debug_nans(True):
        for _ in range(2):
            with pytest.raises(FloatingPointError, match="nan"):
                jax.block_until_ready(f(jnp.asarray(X)))
        jax.block_until_ready(f(jnp.abs(jnp.asarray(X))))


def test_a_nan_in_code_of_xla_and_in_a_function_that_runs_anew():
    torch = pytest.importorskip("torch")
    for how in ({"lower": "xla"}, {"capture": "never"}):
        f = bridge.torch2jax(torch.sqrt, **how)
        with jax.debug_nans(True), pytest.raises(FloatingPointError):
            jax.block_until_ready(f(jnp.asarray(X)))


@direction(FROM_JAX)
def test_an_infinity_is_found_as_of_functions_of_jax(pair):
    f = bridged(pair, lambda x: 1 / (x - 2))
    with jax.debug_infs(True):
        with pytest.raises(FloatingPointError, match="inf"):
            jax.block_until_ready(f(jnp.asarray(X)))
        f(jnp.asarray(X) + 1)


@direction(INTO_JAX)
def test_a_nan_is_found_within_a_function_of_jax(pair):
    target = kit(pair[1])
    f = bridged(pair, jnp.sqrt)
    with jax.debug_nans(True), pytest.raises(FloatingPointError):
        target.numpy(f(target.array(X)))


SETTINGS = {
    "tracer leaks": lambda: jax.check_tracer_leaks(True),
    "no jit": jax.disable_jit,
    "log compiles": lambda: jax.log_compiles(True),
    "ranks": lambda: jax.numpy_rank_promotion("raise"),
    "dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "checks": lambda: jax.enable_checks(True),
    "debug": lambda: jax.debug_nans(True),
    "default device": lambda: jax.default_device(jax.devices("cpu")[0]),
}


def mixed(xp, x, i):
    """Of several ranks and dtypes, as its own framework promotes them."""
    return (xp.tanh(x) * i[:, None] + 1.5).sum(0) * xp.sin(x)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("how", [{}, {"lower": "xla"}, {"capture": "never"}], ids=str)
def test_settings_of_jax_do_not_reach_functions_of_torch(setting, how):
    torch = pytest.importorskip("torch")
    x, i = jnp.asarray(X), jnp.arange(3)
    expected = mixed(jnp, x, i)
    slope = jax.grad(lambda x: mixed(jnp, x, i).prod())(x)
    f = bridge.torch2jax(lambda x, i: mixed(torch, x, i), **how)
    total = bridge.torch2jax(lambda x, i: mixed(torch, x, i).prod(), **how)
    with setting():
        got = jax.jit(f)(x, i), f(x, i)
        gradients = jax.grad(total)(x, i), jax.jit(jax.grad(total))(x, i)
    for y in got:
        np.testing.assert_allclose(y, expected, rtol=1e-5)
    for g in gradients:
        np.testing.assert_allclose(g, slope, rtol=1e-4)


@direction(INTO_JAX)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_settings_around_functions_of_jax(pair, setting):
    target = kit(pair[1])
    f = bridged(pair, lambda x: jnp.tanh(x) * x)
    x = target.array(X)
    with setting():
        y = target.numpy(f(x))
        g = target.numpy(target.grad(lambda x: f(x).sum())(x))
    np.testing.assert_allclose(y, np.tanh(X) * X, rtol=1e-5)
    np.testing.assert_allclose(g, np.tanh(X) + X / np.cosh(X) ** 2, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "complex128", "int64"])
def test_a_default_device_narrows_nothing(dtype):
    torch = pytest.importorskip("torch")
    f = bridge.jax2torch(lambda x: x + x)
    x = torch.tensor([1 / 3, 2.0]).double() / 3 if dtype != "int64" else torch.tensor([2**30 - 1])
    x = x.to(getattr(torch, dtype))
    with jax.default_device(jax.devices("cpu")[0]):
        y = f(x)
    assert y.dtype == x.dtype
    assert torch.equal(y, x + x)


GUARDS = ["disallow", "log"]


@direction([d for d in _registry.directions() if "jax" in d])
@pytest.mark.parametrize("guard", GUARDS)
def test_a_call_is_no_hidden_transfer(pair, guard):
    source, target = map(kit, pair)
    f = bridged(pair, lambda x: source.xp.tanh(x) * x)
    x, ones = target.array(X), target.array(np.ones(3, np.float32))
    with jax.transfer_guard(guard):
        y = f(x)
        (g,) = target.vjp(f, (x,), ones)
        batch = target.vmap(f)(target.xp.stack([x, x]))
    np.testing.assert_allclose(target.numpy(y), np.tanh(X) * X, rtol=1e-5)
    np.testing.assert_allclose(target.numpy(g), np.tanh(X) + X / np.cosh(X) ** 2, rtol=1e-5)
    np.testing.assert_allclose(target.numpy(batch)[1], np.tanh(X) * X, rtol=1e-5)


def test_values_are_no_hidden_transfers_either():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    eager = bridge.jax2torch(lambda x: jnp.tanh(x), jit=False)
    several = bridge.jax2torch(lambda x, n: x * n)
    power = bridge.torch2jax(lambda x, n: x**n)
    net = bridge.torch2jax(torch.nn.Linear(3, 2))
    with jax.transfer_guard("disallow"):
        y = bridge.to_jax(x)
        assert torch.equal(bridge.to_torch(y), x)
        torch.testing.assert_close(eager(x), torch.tanh(x))
        for n in (2.0, np.float32(2), np.full(3, 2, np.float32), torch.full((3,), 2.0)):
            torch.testing.assert_close(several(x, n), x * 2)
            np.testing.assert_allclose(jax.jit(lambda y, n=n: power(y, n))(y), X**2)
        assert net.apply(net.params, net.buffers, y)[0].shape == (2,)


@pytest.mark.xfail(older("jax", 0, 10, 2), reason="jax 0.10.0 takes arrays for no transfer")
def test_a_transfer_within_a_function_is_still_found():
    torch = pytest.importorskip("torch")
    f = bridge.jax2torch(lambda x: x + jnp.asarray(np.ones(3, np.float32)), jit=False)
    message = "Disallowed host-to-device transfer"
    with jax.transfer_guard("disallow"), pytest.raises(RuntimeError, match=message):
        f(torch.from_numpy(X))
    g = bridge.jax2torch(jnp.tanh)
    with jax.transfer_guard("disallow_explicit"), pytest.raises(RuntimeError, match=message):
        g(torch.from_numpy(X))
