"""Operators that users register, and what lowering refuses."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bridge import NoRuleError, NoValuesError, OptionError, register_lowering, torch2jax
from bridge._lowering import user
from bridge._lowering.jax.operators import lowerings
from tests.torch_in_jax import xla

pytestmark = pytest.mark.usefixtures("x64")

X = np.array([0.3, -1.2, 0.7])


@pytest.fixture
def rules(monkeypatch):
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(user, "USER_LOWERINGS", {})
    monkeypatch.setattr(lowerings, "USER_LOWERINGS", user.USER_LOWERINGS)


def bessel(x):
    return torch.special.bessel_j0(x)


def test_a_missing_operator_is_named():
    with pytest.raises(NoRuleError) as caught:
        xla(bessel)(jnp.asarray(X))
    assert str(caught.value) == (
        "the operator aten.special_bessel_j0.default of bessel cannot be compiled for want of "
        "prims.bessel_j0.default, which torch makes it of. Say how it is computed, with "
        '@bridge.register_lowering("aten.special_bessel_j0.default") above a function of JAX '
        'arrays that takes what the operator takes, or let torch compute with lower="ffi".'
    )


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_is_used():
    @register_lowering("aten.special_bessel_j0.default")
    def j0(x):
        return jax.scipy.special.bessel_jn(x, v=0)[0]

    expected = torch.special.bessel_j0(torch.tensor(X))
    np.testing.assert_allclose(jax.jit(xla(bessel))(jnp.asarray(X)), expected, rtol=1e-6)


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_takes_precedence():
    register_lowering("aten.sin.default")(lambda x: x * 5)
    np.testing.assert_allclose(xla(torch.sin)(jnp.asarray(X)), 5 * X)


@pytest.mark.usefixtures("rules")
def test_a_registered_operator_of_another_shape_is_refused():
    register_lowering("aten.sin.default")(lambda x: x[:2])
    message = (
        r"the operator aten.sin.default of sin has a result of shape \[2\], and torch says that "
        r"it is float64\[3\]."
    )
    with pytest.raises(TypeError, match=message):
        xla(torch.sin)(jnp.asarray(X))


@pytest.mark.parametrize("name", ["aten.sin", "sin", "mine::scale", "aten..default"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(OptionError, match=r"names no operator\. Write its namespace, name"):
        register_lowering(name)


@pytest.mark.usefixtures("rules")
def test_a_custom_operator_of_the_user():
    @torch.library.custom_op("bridge_lowering::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @double.register_fake
    def _(x):
        return torch.empty_like(x)

    double.register_autograd(lambda ctx, g: g * 7, setup_context=lambda ctx, inputs, output: None)
    f = xla(lambda x: double(x) + x)
    with pytest.raises(NoRuleError, match=r"operator bridge_lowering\.double\.default of <lambda>"):
        f(jnp.asarray(X))
    register_lowering("bridge_lowering.double.default")(lambda x: x + x)
    np.testing.assert_allclose(f(jnp.asarray(X)), 3 * X)
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(jnp.asarray(X)), [8, 8, 8])


def test_a_function_that_looks_at_values_is_refused():
    f = xla(lambda x: x if x[0] > 0 else -x)
    with pytest.raises(NoValuesError, match=r'nothing that lower="xla" could compile: rewrite it'):
        f(jnp.asarray(X))


def test_options_that_exclude_one_another():
    with pytest.raises(OptionError, match='lower="xla" compiles the graph of a function, and capt'):
        torch2jax(torch.sin, lower="xla", capture="never")
    with pytest.raises(OptionError, match="device='cpu' says where torch computes, and with lower"):
        torch2jax(torch.sin, lower="xla", device="cpu")
    with pytest.raises(OptionError, match='lower=\'c\' is neither "ffi" nor "xla"'):
        torch2jax(torch.sin, lower="c")


def test_an_operator_that_reads_memory_is_refused():
    f = xla(lambda x: torch.as_strided((x * 2).mT, (2, 2), (1, 2)))
    with pytest.raises(NoRuleError, match=r"as_strided.default reads the memory of a tensor of sh"):
        f(jnp.ones((3, 4)))
