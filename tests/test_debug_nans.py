"""Errors about NaN name the bridged call that it is from, and say whether it begins there."""

import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(autouse=True)
def _debug_nans():
    with jax.debug_nans(True):
        yield


def notes(error):
    return "\n".join(error.value.__notes__)


@pytest.fixture
def sqrt_of_torch():
    torch = pytest.importorskip("torch")
    from bridge import torch2jax

    def root(x, y):
        return torch.sqrt(x) * y

    return torch2jax(root)


CALLS = {
    "eager": lambda f, x: f(x - 1, jnp.ones(2)),
    "jit": lambda f, x: jax.jit(f)(x - 1, jnp.ones(2)),
    "vmap": lambda f, x: jax.vmap(f)(x - 1, jnp.ones(2)),
    "grad": lambda f, x: jax.grad(lambda x: (f(x, jnp.ones(2)) * 0).sum())(x),
    "jit of grad": lambda f, x: jax.jit(jax.grad(lambda x: (f(x, jnp.ones(2)) * 0).sum()))(x),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_in_jax_is_named(sqrt_of_torch, call):
    with pytest.raises(FloatingPointError, match="root") as error:
        call(sqrt_of_torch, jnp.zeros(2))
    assert "computed by torch for jax: a call of torch2jax. It begins here" in notes(error)


def test_what_was_invalid_before_is_named(sqrt_of_torch):
    with jax.debug_nans(False):
        nan = jnp.array([1.0, float("nan")])
    with pytest.raises(FloatingPointError) as error:
        sqrt_of_torch(jnp.ones(2), nan)
    assert "Invalid before were operand 1." in notes(error)


@pytest.mark.parametrize("target", ["torch", "mlx"])
def test_a_function_of_jax_is_named(target):
    import bridge
    from tests.kits import kit

    k = kit(target)

    def root(x):
        return jnp.sqrt(x)

    f = getattr(bridge, f"jax2{target}")(root)
    with pytest.raises(FloatingPointError) as error:
        f(k.xp.zeros(2) - 1)
    assert f"It is in root, computed by jax for {target}: a call of jax2{target}." in notes(error)


def test_a_derivative_of_a_function_of_jax_is_named():
    torch = pytest.importorskip("torch")
    from bridge import jax2torch

    y = jax2torch(lambda x: jnp.sqrt(x), residuals="save")(torch.zeros(2, requires_grad=True))
    with pytest.raises(FloatingPointError) as error:
        y.backward(torch.zeros(2))
    assert "It is in <lambda>, computed by jax for torch" in notes(error)
