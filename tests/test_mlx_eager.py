"""Functions of MLX that look at values: executed anew for each call, example and derivative."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2torch
from tests.mlx_functions import X, leaf


@mlx2torch
def looking(x):
    return x * x if x.sum().item() > 0 else mx.sin(x)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_function_that_looks_at_values(sign):
    native = lambda x: x * x if x.sum() > 0 else x.sin()
    x, other = leaf(X * sign), leaf(X * sign)
    y, z = looking(x), native(other)
    torch.testing.assert_close(y, z)
    (g,), (h,) = (torch.autograd.grad(a, b, X, create_graph=True) for a, b in ((y, x), (z, other)))
    torch.testing.assert_close(g, h)
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x), torch.autograd.grad(h.sum(), other))
    found, expected = (torch.func.jvp(f, (X * sign,), (X.cos(),)) for f in (looking, native))
    torch.testing.assert_close(found, expected)


def test_a_function_that_looks_at_values_is_batched_example_by_example():
    native = lambda x: x * x if x.sum() > 0 else x.sin()
    rows = torch.stack([X, -X, X.cos()])
    batch = torch.stack([native(x) for x in rows])
    torch.testing.assert_close(torch.func.vmap(looking)(rows), batch)
    found = torch.func.vmap(looking, in_dims=1, out_dims=1)(rows.mT)
    torch.testing.assert_close(found, batch.mT)
    for derivative in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(derivative(looking)(X), derivative(native)(X))
    gradient = torch.func.grad(lambda x: looking(x).sum())
    expected = [torch.func.grad(lambda x: native(x).sum())(x) for x in rows]
    torch.testing.assert_close(torch.func.vmap(gradient)(rows), torch.stack(expected))


def test_shapes_that_follow_from_values_are_refused():
    f = mlx2torch(lambda x: mx.array([v for v in x.tolist() if v > 0]))
    with pytest.raises(bridge.ArgumentError, match=r"returned \(float32\[2\]\).*\(float32\[3\]\)"):
        f(X)


def test_structure_of_results_may_follow_from_values():
    bridged = mlx2torch(lambda x: {"high" if x[0].item() > 0 else "low": x * 2})
    assert [*bridged(X), *bridged(-X), *bridged(X)] == ["high", "low", "high"]


def test_gradients_of_complex_functions_that_look_at_values_are_refused():
    """Nothing tells whether there is a power among them, whose gradient MLX has wrong."""
    f = mlx2torch(lambda z: mx.real(z**2) if mx.abs(z).item() > 0 else mx.imag(z))
    z = torch.tensor(1 + 2j, requires_grad=True)
    torch.testing.assert_close(f(z.detach()), torch.tensor(-3.0))
    with pytest.raises(bridge.NoRuleError, match=r"looks at values.*mx\.where"):
        torch.autograd.grad(f(z), z)


def test_a_function_that_looks_at_values_draws_the_same_again():
    def noisy(x):
        return x * mx.random.bernoulli(0.5, x.shape) if x.sum().item() > -1e9 else x

    f, x = mlx2torch(noisy), torch.ones(40, requires_grad=True)
    y = f(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    torch.manual_seed(3)
    first = f(x)
    torch.manual_seed(3)
    torch.testing.assert_close(f(x), first)
    assert not torch.equal(f(x), first)


def test_an_error_for_values_that_were_made_up_says_so():
    def checked(x):
        if x.min().item() < 1:
            raise ValueError("x must be at least 1")
        return x

    with pytest.raises(ValueError, match="at least 1") as caught:
        mlx2torch(checked)(torch.tensor([2.0, 3.0]))
    assert "made-up values" in caught.value.__notes__[0]
