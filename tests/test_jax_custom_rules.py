"""Custom rules of JAX hold through the bridge; each gradient is wrong on purpose."""

import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above
from tests.points import X, leaf  # noqa: E402


@jax.custom_vjp
def sine_with_vjp(x):
    return jnp.sin(x)


sine_with_vjp.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * 10 * x**3,))


@jax.custom_jvp
def sine_with_jvp(x):
    return jnp.sin(x)


@sine_with_jvp.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return sine_with_jvp(x), t * 10 * x**3


CUSTOM = {"custom_vjp": sine_with_vjp, "custom_jvp": sine_with_jvp}
every_custom = pytest.mark.parametrize("rule", CUSTOM.values(), ids=CUSTOM)


@every_custom
@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_custom_rule_is_respected(rule, residuals):
    x = leaf()
    jax2torch(lambda x: rule(x).sum(), residuals=residuals)(x).backward()
    torch.testing.assert_close(x.grad, 10 * x.detach() ** 3)


SECOND = {
    "hessian": lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x),
    "create_graph": lambda f, x: torch.diag(
        torch.autograd.grad(torch.autograd.grad(f(x), x, create_graph=True)[0].sum(), x)[0]
    ),
}


@every_custom
@pytest.mark.parametrize("second", SECOND.values(), ids=SECOND)
def test_custom_rule_is_respected_in_second_order(rule, second):
    x = leaf()
    found = second(jax2torch(lambda x: rule(x).sum()), x)
    torch.testing.assert_close(found, torch.diag(30 * x.detach() ** 2))


@every_custom
def test_custom_rule_is_respected_under_vmap(rule):
    x = torch.tensor(X)
    found = torch.func.vmap(torch.func.grad(jax2torch(rule)))(x)
    torch.testing.assert_close(found, 10 * x**3)


def test_custom_jvp_is_respected_in_forward_mode():
    x = torch.tensor(X)
    _, tangent = torch.func.jvp(jax2torch(sine_with_jvp), (x,), (x,))
    torch.testing.assert_close(tangent, 10 * x**4)
    found = torch.func.hessian(jax2torch(lambda x: sine_with_jvp(x).sum()))(x)
    torch.testing.assert_close(found, torch.diag(30 * x**2))


def test_stop_gradient_is_respected():
    x = leaf()
    jax2torch(lambda x: (x * jax.lax.stop_gradient(jnp.sin(x))).sum())(x).backward()
    torch.testing.assert_close(x.grad, x.detach().sin())
