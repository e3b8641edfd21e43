"""Integers of 64 bits: in range, or refused."""

import numpy as np
import pytest

import bridge
from bridge import jax2torch

WIDE_INTEGERS = ("int64", "uint64")


X = np.array([1 / 3, -1.2, 2 / 7])


OUTSIDE = {"int64": [2**31, -(2**31) - 1, 2**40], "uint64": [2**32, 2**63]}


@pytest.mark.parametrize("options", [{}, {"jit": False}, {"x64": False}], ids=str)
@pytest.mark.parametrize("name", WIDE_INTEGERS)
def test_integer_out_of_range(jax, torch, name, options):
    def f(x, n):
        return n

    there = jax2torch(f, **options)
    there(torch.ones(2), torch.tensor([0, 1], dtype=getattr(torch, name)))
    for value in OUTSIDE[name]:
        n = torch.tensor([0, value], dtype=getattr(torch, name))
        text = rf"argument n of f\b.*{name}\[2\].*{name.replace('64', '32')}.*x64=True"
        with pytest.raises(bridge.RangeError, match=text):
            there(torch.ones(2), n)


def test_integer_of_numpy_out_of_range(jax, torch):
    there = jax2torch(lambda n: n)
    assert there(np.array([5, -7])).tolist() == [5, -7]
    with pytest.raises(bridge.RangeError, match=r"int64\[1\].*int32"):
        there(np.array([2**31]))


def test_integer_out_of_range_beside_a_tensor_that_requires_grad(jax, torch):
    x, n = torch.ones(2, requires_grad=True), torch.tensor([0, 2**33])
    with pytest.raises(bridge.RangeError, match=r"int64\[2\].*int32"):
        jax2torch(lambda x, n: x[n])(x, n)


def test_index_comes_back_as_it_went_in(into_torch, torch):
    source, wrap = into_torch
    counts = {"jax": torch.int64, "mlx": torch.uint32}[source.name]  # MLX counts in uint32 as such
    index = torch.tensor([3, -1, 2])
    there = wrap(lambda n: (n, n + 1, source.xp.argmax(n), n > 0))
    found = there(index)
    assert [y.dtype for y in found] == [torch.int64, torch.int64, counts, torch.bool]
    expected = (index, index + 1, torch.argmax(index).to(counts), index > 0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", WIDE_INTEGERS)
def test_whole_range_in_64_bits(jax, torch, name):
    x = torch.tensor([2**63 - 1, 2**40 + 1, 0], dtype=getattr(torch, name))
    found = jax2torch(lambda x: x // 2, x64=True)(x)
    assert found.dtype == x.dtype
    assert found.tolist() == [2**62 - 1, 2**39, 0]


def test_whole_range_beside_a_float64(jax, torch):
    found = jax2torch(lambda x, n: n + 1)(torch.tensor(X), torch.tensor([2**40]))
    assert found.tolist() == [2**40 + 1]


@pytest.mark.parametrize("shape", [(0,), (), (2, 0, 3)], ids=str)
def test_shapes_of_integers(into_torch, torch, shape):
    x = torch.full(shape, 7)
    torch.testing.assert_close(into_torch[1](lambda n: n + 1)(x), x + 1)


@pytest.mark.parametrize("index", ["int64", "int32", "uint8", "numpy"])
@pytest.mark.parametrize("options", [{}, {"residuals": "recompute"}, {"jit": False}], ids=str)
def test_gradient_of_an_embedding(into_torch, torch, index, options):
    source, wrap = into_torch
    table = torch.tensor(np.outer(X, [1.0, -2.0]), dtype=torch.float32, requires_grad=True)
    rows = np.array([[2, 0], [2, 1]])
    at = rows if index == "numpy" else torch.tensor(rows, dtype=getattr(torch, index))
    y = wrap(lambda table, at: source.xp.sin(table[at]), **options)(table, at)
    wanted = torch.sin(table[torch.tensor(rows)])
    cotangent = torch.linspace(-1, 2, 8).reshape(2, 2, 2)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(y, table, cotangent), torch.autograd.grad(wanted, table, cotangent)
    )


def test_embedding_under_vmap(into_torch, torch):
    """The batched integers are checked and narrowed as the plain ones are."""
    table = torch.linspace(-1, 2, 6).reshape(3, 2)
    rows = torch.tensor([[2, 0], [2, 1], [0, 0], [1, 2]])
    there = into_torch[1](lambda table, at: (table[at], at))
    found = torch.func.vmap(there, in_dims=(None, 0))(table, rows)
    torch.testing.assert_close(found, (table[rows], rows))
    if into_torch[0].name == "jax":
        with pytest.raises(bridge.RangeError, match=r"int64.*int32"):
            torch.func.vmap(there, in_dims=(None, 0))(table, rows + 2**31)


def test_gradient_of_an_integer_output_beside_a_float(into_torch, torch):
    """An integer argument that decides how often is no obstacle to the others."""
    x, n = torch.tensor([0.5, -1.5], requires_grad=True), torch.tensor(3)
    y, m = into_torch[1](lambda x, n: (x**n, n * 2))(x, n)
    assert (m.item(), m.dtype, m.requires_grad) == (6, torch.int64, False)
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, 3 * x.detach() ** 2)
