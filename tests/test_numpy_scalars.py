"""NumPy scalars as arguments: what the source makes of them natively."""

import itertools

import numpy as np
import pytest

from bridge import RangeError, jax2mlx, jax2torch, mlx2torch

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
mx = pytest.importorskip("mlx.core")

DTYPES = ["int8", "int32", "uint8", "float16", "bfloat16", "float32"]
SCALARS = [np.int8(3), np.int16(7), np.int32(200), np.int64(200), np.uint8(3), np.float16(0.1)]
SCALARS += [np.float32(0.1), np.float64(0.1), np.complex64(0.5 - 2j), np.complex128(0.5 - 2j)]
cases = pytest.mark.parametrize(
    ("dtype", "scalar"),
    [*itertools.product(DTYPES, SCALARS)],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)


def product(x, n):
    return x * n


@cases
def test_jax_promotes_them_as_jit_does(dtype, scalar):
    expected = jax.jit(product)(jax.numpy.full((2,), 100, dtype), scalar)
    found = jax2torch(product)(torch.full((2,), 100, dtype=getattr(torch, dtype)), scalar)
    assert str(found.dtype) == f"torch.{expected.dtype}"
    np.testing.assert_array_equal(found.to(torch.complex64).numpy(), np.complex64(expected))


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda x: type(x).__name__)
def test_they_have_the_width_of_the_mode(scalar):
    with jax.enable_x64(new_val=True):
        expected = jax.jit(product)(jax.numpy.full((2,), 0.3, "float64"), scalar)
    for there in (jax2torch(product), jax2torch(product, jit=False)):
        found = there(torch.full((2,), 0.3, dtype=torch.float64), scalar)
        assert str(found.dtype) == f"torch.{expected.dtype}"
        np.testing.assert_array_equal(found.numpy(), np.asarray(expected))


def test_a_wide_one_neither_asks_for_x64_nor_widens_other_results():
    found = jax2torch(lambda x, n, s: (x * n, x.argmax() + 0 * n, x * s))(
        torch.ones(3), np.int64(2), np.float64(0.5)
    )
    assert [y.dtype for y in found] == [torch.float32, torch.int32, torch.float32]
    with pytest.raises(RangeError, match=r"argument n of product.*do not fit into int32"):
        jax2torch(product)(torch.ones(3, dtype=torch.int8), np.int64(2**40))


def test_x64_false_takes_them():
    found = jax2torch(product, x64=False)(torch.ones(2), np.float64(0.1))
    torch.testing.assert_close(found, torch.full((2,), 0.1))


def test_gradients_go_past_them():
    x = torch.tensor([0.3, -1.2], dtype=torch.float16, requires_grad=True)
    result = jax2torch(product)(x, np.float32(0.1))
    (gradient,) = torch.autograd.grad(result.sum(), x, create_graph=True)
    assert (result.dtype, gradient.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(gradient, torch.full_like(x, 0.1))
    batched = torch.func.vmap(jax2torch(product), in_dims=(0, None))(x, np.float32(0.1))
    torch.testing.assert_close(batched, result)


def test_one_trace_serves_all_values():
    traces = []

    def traced(x, n):
        traces.append(n)
        return x * n

    there = jax2torch(traced)
    for value in (1, 2, 3):
        there(torch.ones(2), np.int32(value))
    assert len(traces) == 1


@cases
def test_mlx_as_a_source_takes_them_as_it_does(dtype, scalar):
    expected = mx.full((2,), 100, getattr(mx, dtype)) * scalar
    found = mlx2torch(product)(torch.full((2,), 100, dtype=getattr(torch, dtype)), scalar)
    assert str(found.dtype).removeprefix("torch.") == str(expected.dtype).removeprefix("mlx.core.")


@cases
def test_mlx_as_a_target_gets_what_jax_makes(dtype, scalar):
    expected = jax.jit(product)(jax.numpy.full((2,), 100, dtype), scalar)
    found = jax2mlx(product)(mx.full((2,), 100, getattr(mx, dtype)), scalar)
    assert str(found.dtype) == f"mlx.core.{expected.dtype}"
