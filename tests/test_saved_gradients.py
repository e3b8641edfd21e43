"""Gradients that the forward pass of a JAX loss computed: who gets their memory, and when."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there

from bridge import jax2torch  # noqa: E402, as above
from tests.tensors import leaves  # noqa: E402

RANDOM = np.random.default_rng(23)
X = RANDOM.uniform(-1.3, 1.5, (5, 3)).astype("float32")
W = RANDOM.uniform(-1.3, 1.5, (3, 4)).astype("float32")
Z = (X + 1j * RANDOM.uniform(-1.3, 1.5, X.shape)).astype("complex64")


def loss(xp, x, w):
    y = xp.tanh(xp.sin(x) @ w)
    return (y * y).mean()


@pytest.fixture
def there():
    f = jax2torch(lambda *xs: loss(jnp, *xs))
    yield f
    assert repr(f).endswith("gradient>")


def native(x, w, factor=1.0):
    return torch.autograd.grad(factor * loss(torch, x, w), (x, w))


def addresses(tensors):
    return [t.data_ptr() for t in tensors]


def saved_addresses(y):
    """Where the gradients are that the call saved after its two arguments."""
    return addresses(y.grad_fn.saved_tensors[2:])


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_the_last_backward_copies_nothing(there, factor):
    x, w = leaves(X, W)
    y = there(x, w)
    saved = saved_addresses(y)
    gradients = torch.autograd.grad(y, (x, w), torch.tensor(factor))
    assert addresses(gradients) == saved
    torch.testing.assert_close(gradients, native(x, w, factor))


def test_grad_is_that_memory(there):
    x, w = leaves(X, W)
    y = there(x, w)
    saved = saved_addresses(y)
    y.backward()
    assert addresses([x.grad, w.grad]) == saved
    torch.testing.assert_close((x.grad, w.grad), native(x, w))


def test_gradients_are_accumulated(there):
    x, w = leaves(X, W)
    for factor in (1.0, 3.0, -0.5):
        (factor * there(x, w)).backward()
    torch.testing.assert_close((x.grad, w.grad), native(x, w, 3.5))


def test_a_sum_of_two_calls_equals_native(there):
    """The engine may add the gradients in place."""
    x, w = leaves(X, W)
    gradients = torch.autograd.grad(there(x, w) + 2 * there(x, 2 * w), (x, w))
    total = loss(torch, x, w) + 2 * loss(torch, x, 2 * w)
    torch.testing.assert_close(gradients, torch.autograd.grad(total, (x, w)))


@pytest.mark.parametrize("factors", [(1.0, 1.0), (-2.0, 1.0), (1.0, -2.0), (-2.0, 3.0)])
def test_changes_in_place_do_not_reach_the_next_backward(there, factors):
    x, w = leaves(X, W)
    y = there(x, w)
    for factor, retain in zip(factors, (True, False), strict=True):
        gradients = torch.autograd.grad(y, (x, w), torch.tensor(factor), retain_graph=retain)
        torch.testing.assert_close(gradients, native(x, w, factor))
        for gradient in gradients:
            gradient.zero_()


@pytest.mark.parametrize("factor", [1.0, -2.5])
def test_what_a_hook_has_seen_is_not_changed(there, factor):
    seen = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        x, w = leaves(X, W)
        y = there(x, w)
    before = [t.detach().clone() for t in seen]
    gradients = torch.autograd.grad(y, (x, w), torch.tensor(factor))
    torch.testing.assert_close(gradients, native(x, w, factor))
    for gradient in gradients:
        gradient.zero_()
    torch.testing.assert_close([t.detach() for t in seen], before, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_equal_gradients_have_memory_of_their_own(factor):
    """Else a multiple in place would be a multiple twice."""
    f = jax2torch(lambda x, y: ((x + y) ** 2).mean())
    x, y = leaves(X, 2 * X)
    gradients = torch.autograd.grad(f(x, y), (x, y), torch.tensor(factor))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], factor * 2 * (x + y).detach() / X.size)
    gradients[0].zero_()
    assert gradients[1].count_nonzero()
    assert repr(f).endswith("gradient>")


def test_a_gradient_that_is_an_argument_is_a_copy():
    f = jax2torch(lambda x, y: (x * y).sum())
    x, y = leaves(X, 2 * X)
    for gradient in torch.autograd.grad(f(x, y), (x, y)):
        gradient.zero_()
    torch.testing.assert_close((x.detach(), y.detach()), (torch.tensor(X), torch.tensor(2 * X)))


def test_a_constant_gradient_is_not_changed_for_the_next_call():
    constant = jnp.asarray(X)
    f = jax2torch(lambda x: (x * constant).sum())
    for factor in (2.0, 1.0, -3.0):
        (x,) = leaves(X)
        (gradient,) = torch.autograd.grad(f(x), x, torch.tensor(factor))
        torch.testing.assert_close(gradient, factor * torch.tensor(X))
        gradient.zero_()


@pytest.mark.parametrize("factor", [1.0, -1.7])
def test_complex_arguments(factor):
    def function(xp, z):
        return (xp.sin(z) * z.conj()).real.mean()

    f = jax2torch(lambda z: function(jnp, z))
    (z,) = leaves(Z)
    y = f(z)
    gradient = torch.autograd.grad(y, z, torch.tensor(factor))
    torch.testing.assert_close(gradient, torch.autograd.grad(factor * function(torch, z), z))


def test_a_number_of_another_dtype_is_not_rounded():
    """0.1 in 64 bits, times a gradient in 32 bits."""
    f = jax2torch(lambda x: (x.astype("float64") * 3).sum(), x64=True)
    (x,) = leaves(X)
    factor = torch.tensor(1 + 2.0**-30, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(f(x), x, factor)
    expected = (torch.full(X.shape, 3.0).double() * factor).float()
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0)


def test_some_arguments_at_a_time(there):
    x, w = leaves(X, W)
    y = there(x, w)
    (by_w,) = torch.autograd.grad(y, w, torch.tensor(2.0), retain_graph=True)
    (by_x,) = torch.autograd.grad(y, x, torch.tensor(-3.0))
    torch.testing.assert_close((by_x, by_w), (native(x, w, -3.0)[0], native(x, w, 2.0)[1]))


def test_a_lazy_negation_as_a_cotangent(there):
    x, w = leaves(X, W)
    factor = torch._neg_view(torch.tensor(1.0))
    gradients = torch.autograd.grad(there(x, w), (x, w), factor)
    torch.testing.assert_close(gradients, native(x, w, -1.0))
