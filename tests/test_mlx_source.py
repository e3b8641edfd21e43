"""Functions of MLX in torch: every transformation, what MLX lacks, and errors."""

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2jax, mlx2torch
from tests.mlx_functions import ROWS, X, every_way, layer, leaf


def scalar(xp, x):
    return (layer(xp, x) * x).sum()


TRANSFORMS = {
    "grad": lambda t, f: t.grad(f)(X),
    "hessian": lambda t, f: t.hessian(f)(X),
    "jacfwd of jacrev": lambda t, f: t.jacfwd(t.jacrev(f))(X),
    "jacrev of jacfwd": lambda t, f: t.jacrev(t.jacfwd(f))(X),
    "vmap of hessian": lambda t, f: t.vmap(t.hessian(f))(ROWS),
    "third order": lambda t, f: t.jacrev(t.jacrev(t.jacrev(f)))(X),
    "jvp of vmap": lambda t, f: t.jvp(t.vmap(f), (ROWS,), (ROWS.cos(),)),
}


@every_way
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transformations_equal_native_in_every_way(transform, how):
    found = transform(torch.func, mlx2torch(lambda x: scalar(mx, x), **how))
    expected = transform(torch.func, lambda x: scalar(torch, x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_way
def test_autograd_equals_native_in_every_way(how):
    x, native = leaf(), leaf()
    f = mlx2torch(lambda x: (layer(mx, x), mx.exp(x)), **how)
    for function, point in ((f, x), (lambda x: (layer(torch, x), x.exp()), native)):
        first, second = function(point)
        (first * point.cos().detach()).sum().backward(retain_graph=True)
        (second.sum() + 2 * first.sum()).backward()
    torch.testing.assert_close(x.grad, native.grad)


@every_way
def test_torch_compile_equals_native_in_every_way(how):
    f = mlx2torch(lambda x: scalar(mx, x), **how)
    x, native = leaf(), leaf()
    torch.compile(lambda x: f(x * 2) + 1, fullgraph=True, backend="aot_eager")(x).backward()
    (scalar(torch, native * 2) + 1).backward()
    torch.testing.assert_close(x.grad, native.grad)


@pytest.mark.parametrize("convert", [mlx2torch, mlx2jax])
def test_an_error_of_the_function_keeps_its_type_and_text(convert):
    def failing(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        convert(failing)(X if convert is mlx2torch else np.ones(3, np.float32))


# What MLX lacks or has wrong.

LACKING = {
    "Inverse": lambda x: mx.linalg.inv(x, stream=mx.cpu),
    "Cholesky": lambda x: mx.linalg.cholesky(x @ x.T + mx.eye(3), stream=mx.cpu),
    "SVD": lambda x: mx.linalg.svd(x, stream=mx.cpu)[1],
    "QRF": lambda x: mx.linalg.qr(x, stream=mx.cpu)[1],
    "Eigh": lambda x: mx.linalg.eigh(x + x.T, stream=mx.cpu)[0],
    "gather": lambda x: mx.linalg.solve(x, mx.ones((3,)), stream=mx.cpu),
}


@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("order", ["reverse", "forward"])
def test_a_derivative_that_mlx_lacks_is_named(name, order):
    f, x = mlx2torch(LACKING[name]), torch.randn(3, 3)
    assert f(x).isfinite().all()
    attempt = {
        "reverse": lambda: f(x.requires_grad_()).sum().backward(),
        "forward": lambda: torch.func.jvp(f, (x,), (x,)),
    }
    with pytest.raises(
        bridge.NoRuleError, match=rf"MLX (has no|lacks).*{name}.*mx\.custom_function"
    ):
        attempt[order]()


def test_a_missing_derivative_in_jax_is_named_when_it_is_traced():
    jax = pytest.importorskip("jax")
    f = mlx2jax(LACKING["Inverse"])
    with pytest.raises(bridge.NoRuleError, match="no derivative of Inverse"):
        jax.jit(jax.grad(lambda x: f(x).sum())).lower(jax.numpy.eye(3))


@pytest.mark.xfail(strict=True, reason="functions of float64 are those of float32: mlx#3047")
def test_functions_of_float64_are_accurate():
    found = mlx2torch(mx.sin)(X.double())
    torch.testing.assert_close(found, X.double().sin(), rtol=1e-12, atol=0)


def test_float64_is_kept_through_arithmetic():
    x = torch.tensor([1 / 3, -2 / 7], dtype=torch.float64, requires_grad=True)
    y = mlx2torch(lambda x: x * x * x)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("how", [{}, {"compile": True}, {"residuals": "save"}], ids=str)
@pytest.mark.parametrize("after", [0, 200])
def test_what_fails_while_it_is_computed_raises(after, how):
    """Errors of MLX come where it is told to compute, or where it is waited for."""

    def inverse(x):
        y = mx.linalg.inv(x, stream=mx.cpu)
        for _ in range(after):
            y = y + 1
        return mx.stop_gradient(y) * x

    f = mlx2torch(inverse, **how)
    x = 2 * torch.eye(2)
    torch.testing.assert_close(f(x), x @ (torch.eye(2) / 2 + after) * torch.eye(2))
    for wanted in (False, True):
        with pytest.raises(RuntimeError, match="LU factorization failed"):
            f(torch.zeros(2, 2, requires_grad=wanted))
    torch.testing.assert_close(f(x), x @ (torch.eye(2) / 2 + after) * torch.eye(2))
