"""Faster names that are private to torch and JAX: used where they are, and not needed."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402, after the check that JAX is there
import jaxlib._jax  # noqa: E402, as above
from torch.utils.dlpack import from_dlpack  # noqa: E402, as above

import bridge._arrays.jax.backend as jax_arrays  # noqa: E402, as above
import bridge._arrays.torch.backend as torch_arrays  # noqa: E402, as above
from bridge import jax2torch  # noqa: E402, as above
from bridge._arrays.torch.upstream import isolation  # noqa: E402, as above
from bridge._targets.torch import call  # noqa: E402, as above

X = np.random.default_rng(3).uniform(-1.3, 1.5, (4, 3)).astype("float32")


def test_private_names_are_used_where_they_are():
    """Fails when one is gone, and the public one is at work."""
    assert torch_arrays.from_dlpack is torch._C._from_dlpack
    assert jax_arrays.dlpack_capsule is jaxlib._jax.buffer_to_dlpack_managed_tensor
    assert isolation.transforming is torch._C._are_functorch_transforms_active


def public_capsule(y):
    return y.__dlpack__()


PUBLIC = {
    "from_dlpack": (torch_arrays, "from_dlpack", from_dlpack),
    "__dlpack__": (jax_arrays, "dlpack_capsule", public_capsule),
    "transforming": (call, "transforming", lambda: True),
    "undisturbed": (call, "is_plain_autograd", lambda: False),
}


@pytest.mark.parametrize("shortcut", PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_without_a_shortcut_nothing_changes(monkeypatch, shortcut, residuals):
    monkeypatch.setattr(*shortcut)
    f = jax2torch(lambda x, y: (jnp.sin(x) * y, y.sum()), residuals=residuals)
    x, y = torch.tensor(X, requires_grad=True), torch.tensor(X) ** 2
    torch.testing.assert_close(f(x.detach(), y), (x.detach().sin() * y, y.sum()))
    first, second = f(x, y)
    (found,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
    expected = 2 * x.sin() * x.cos() * y**2
    torch.testing.assert_close(found, expected)
    (found,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), x)[0])
    assert not second.requires_grad


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_first_order_without_asking_the_engine(monkeypatch, residuals):
    """`apply` of torch, instead of that of its engine."""
    monkeypatch.setattr(call, "_plain_apply", lambda name: call._Plain.apply)
    f = jax2torch(jnp.sin, residuals=residuals)
    x = torch.tensor(X, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(f(x).sum(), x)[0], x.detach().cos())


def test_a_tensor_that_outlived_its_transformation():
    """torch unwraps it in `apply`, which a call outside of torch.func leaves out."""
    kept = []
    torch.func.grad(lambda x: (kept.append(x), (x * x).sum())[1])(torch.tensor(X))
    w = torch.tensor(2.0, requires_grad=True)
    y = jax2torch(lambda x, w: jnp.sin(x) * w)(kept[0], w)
    torch.testing.assert_close(y, torch.tensor(X).sin() * 2)
    y.sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor(X).sin().sum())
