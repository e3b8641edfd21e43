"""Memory of results, gradients, arguments and captured arrays of functions of MLX."""

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

from bridge import mlx2torch
from tests.mlx_functions import ROWS, X, every_way, leaf


def test_results_and_gradients_own_their_memory():
    weight = mx.array([1.0, 2.0, 3.0])
    f = mlx2torch(lambda x, y: (weight, weight, x, x * 1, x + y))
    x, y = leaf(), leaf()
    results = f(x, y)
    (results[4]).sum().backward()
    tensors = [*results, x, y, x.grad, y.grad]
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    with torch.no_grad():
        for t in tensors:
            t.fill_(9)
    assert weight.tolist() == [1.0, 2.0, 3.0]


def kept_by_its_rule(x, kept):
    function = mx.custom_function(lambda x: x * 2)
    function.vjp(lambda x, cotangent, _: kept.append(cotangent * 2) or kept[-1])
    return function(x)


# Of x, y and what the function keeps.
GRADIENTS = {
    "one for both": lambda x, y, _: x + y,
    "one product for both": lambda x, y, _: mx.sin(x + y),
    "views of one": lambda x, y, _: x.reshape(1, 6) + y.reshape(6, 1).T,
    "one expression for both": lambda x, y, _: x @ mx.ones((3, 3)) + y @ mx.ones((3, 3)),
    "the cotangent": lambda x, y, _: mx.stack([x, y]),
    "kept by a rule": lambda x, y, kept: kept_by_its_rule(x, kept) * y,
    "kept by a rule, no value used": lambda x, y, kept: kept_by_its_rule(x, kept) + y,
    "a constant": lambda x, y, _: x * mx.array([1.0, 2.0, 3.0]) * y,
}


@every_way
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("function", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_own_their_memory(function, create_graph, how):
    kept = []
    f = mlx2torch(lambda x, y: function(x, y, kept), **how)
    for _ in range(2):
        x, y = leaf(ROWS), leaf(3 * ROWS)
        gradients = torch.autograd.grad(f(x, y).sum(), (x, y), create_graph=create_graph)
        held = [found for k in kept if (found := values(k)) is not None]
        with torch.no_grad():
            gradients[0].fill_(7)
            gradients[1].fill_(9)
            assert gradients[0].eq(7).all()
        assert [values(k) for k in kept if values(k) is not None] == held


def values(x):
    try:
        return x.tolist()
    except (RuntimeError, ValueError):  # what was kept of a graph without values
        return None


VIEWS = {
    "transposed": lambda rows: rows.T,
    "reversed": lambda rows: rows[:, ::-1],
    "part": lambda rows: rows[1:, 1:],
    "stretched": lambda rows: mx.broadcast_to(rows[0], (4, 3)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.bool_], ids=str)
def test_views_come_in_dense_memory_of_their_own(view, dtype):
    rows = mx.array(ROWS).astype(dtype)
    f = mlx2torch(lambda x: (view(rows), view(rows + x.astype(dtype)), rows))
    expected = np.array(view(rows).astype(mx.float32))
    for _ in range(2):  # the first call finds out that there are gaps
        results = f(torch.zeros(3))
        for found in results[:2]:
            assert found.is_contiguous()
            np.testing.assert_array_equal(found.float().numpy(), expected)
        assert len({y.untyped_storage().data_ptr() for y in results}) == 3
        results[0].zero_()
        results[2].zero_()
    assert mx.array_equal(rows, mx.array(ROWS).astype(dtype)).item()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.complex64], ids=str)
def test_a_number_from_the_middle_of_an_array(dtype):
    f = mlx2torch(lambda x: (x + 1).astype(dtype)[2:3].reshape(()))
    assert f(torch.arange(4.0)).item() == 3
    x = torch.tensor(2.0, requires_grad=True)
    pair = mlx2torch(lambda x: mx.concatenate([mx.ones(1), -x.reshape(1)]))
    pair(x).backward(torch.tensor([1.0, 5.0]))
    assert x.grad == -5


def test_an_array_captured_by_the_function_is_a_constant():
    weight = mx.array([1.0, 2.0, 3.0])
    x = leaf()
    mlx2torch(lambda x: mx.sin(x) * weight)(x).sum().backward()
    torch.testing.assert_close(x.grad, X.cos() * torch.tensor([1.0, 2.0, 3.0]))


def test_a_captured_array_that_is_put_off():
    weight = mx.exp(mx.array([1.0, 2.0, 3.0]))
    torch.testing.assert_close(
        mlx2torch(lambda x: x * weight)(X), X * torch.tensor([1.0, 2.0, 3.0]).exp()
    )


# Arguments that are written to.


def test_a_function_may_write_to_its_arguments():
    def f(x, y):
        x *= y
        y += 1
        return mx.real(mx.fft.fft(x)) * y

    native = lambda x, y: torch.fft.fft(x * y).real * (y + 1)
    x, y = torch.tensor([0.3, -1.25, 0.7]), torch.tensor([1.1, 0.4, -0.6])
    found, expected = (torch.func.jvp(fn, (x, y), (y, x)) for fn in (mlx2torch(f), native))
    torch.testing.assert_close(found, expected)
    square = lambda fn: lambda x: fn(x, y).square().sum()
    found, expected = (torch.func.hessian(square(fn))(x) for fn in (mlx2torch(f), native))
    torch.testing.assert_close(found, expected)


def test_an_argument_of_mlx_is_what_it_was_when_the_function_was_called():
    def f(x, w):
        w *= 2
        return x * w * x

    for change in (False, True):
        w, x = mx.array([1.0, 2.0]), torch.ones(2, requires_grad=True)
        y = mlx2torch(f, residuals="recompute")(x, w)
        if change:
            w[0] = 50.0
        y.sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([4.0, 8.0]))
