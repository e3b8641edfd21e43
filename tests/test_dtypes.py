"""Every dtype comes back as it went in."""

import numpy as np
import pytest

from bridge import jax2torch


def same_bits(torch, x, y):
    """Whether two tensors are equal to the sign of a zero and the payload of a nan."""
    assert (x.dtype, x.shape) == (y.dtype, y.shape)
    as_bytes = lambda t: t.contiguous().flatten().view(torch.uint8)
    return torch.equal(as_bytes(x), as_bytes(y))


def same_numbers(torch, x, y):
    """Whether two tensors are equal to the sign of a zero, and nan where the other is.

    XLA computes float8_e5m2 in wider floats, in which jaxlib 0.12 loses the payload of a nan.
    """
    if not x.is_floating_point():  # torch 2.11 has no `where` for some integers
        return same_bits(torch, x, y)
    numbers = lambda t: torch.where(t.isnan(), torch.zeros_like(t), t)
    return torch.equal(x.isnan(), y.isnan()) and same_bits(torch, numbers(x), numbers(y))


SMALL_INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
WIDE_INTEGERS = ("int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
COMPLEX = ("complex64", "complex128")
FLOAT8 = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
ALL = ("bool", *SMALL_INTEGERS, *WIDE_INTEGERS, *FLOATS, *COMPLEX, *FLOAT8)


def values(torch, name):
    """Values of a dtype, with its extremes."""
    dtype = getattr(torch, name)
    if name == "bool":
        return torch.tensor([True, False, True])
    if name in FLOAT8:
        return torch.arange(256, dtype=torch.uint8).view(dtype)
    if name in FLOATS:
        special = [0.0, -0.0, 1 / 3, -2.5, float("inf"), float("-inf"), float("nan")]
        limits = torch.finfo(dtype)
        return torch.tensor([*special, limits.max, limits.min, limits.tiny], dtype=dtype)
    if name in COMPLEX:
        return torch.tensor([1 / 3 - 2j, complex(0.0, -0.0), complex("nan+infj"), -5j], dtype=dtype)
    limits = torch.iinfo(getattr(torch, name.replace("64", "32")))
    return torch.tensor([limits.min, 0, 1, 77, limits.max], dtype=dtype)


@pytest.mark.parametrize("name", ALL)
def test_values_come_back(into_torch, torch, name):
    x = values(torch, name)
    whole, rest = into_torch[1](lambda x: (x, x[1:]))(x)
    assert same_bits(torch, whole, x)
    assert same_numbers(torch, rest, x[1:])


@pytest.mark.parametrize("name", [*FLOATS, *COMPLEX, *FLOAT8])
def test_values_come_back_where_gradients_are_wanted(into_torch, torch, name):
    """The forward half of a derivative is another program."""
    x = values(torch, name)
    whole, rest = into_torch[1](lambda x: (x, x[1:]))(x.clone().requires_grad_())
    assert same_bits(torch, whole.detach(), x)
    assert same_numbers(torch, rest.detach(), x[1:])


@pytest.mark.parametrize("name", ["bool", *SMALL_INTEGERS, "float16", "float32", "complex64"])
def test_values_come_back_in_every_direction(kits, bridged, name):
    _, target = kits
    x = np.array([0, 1, 77, 1, 0]).astype(name)
    found = target.numpy(bridged(lambda x: x[1:])(target.array(x)))
    np.testing.assert_array_equal(found, x[1:], strict=True)


@pytest.mark.parametrize("name", ALL)
def test_function_sees_the_dtype(jax, torch, name):
    seen = []
    jax2torch(lambda x: seen.append(x.dtype.name), x64=True)(values(torch, name))
    assert seen == [name]


@pytest.mark.parametrize("residuals", ["save", "recompute"])
@pytest.mark.parametrize("name", [*FLOATS, *COMPLEX, "float8_e4m3fn", "float8_e5m2"])
def test_gradient_has_the_dtype_of_its_argument(into_torch, torch, name, residuals):
    dtype = getattr(torch, name)
    x = torch.tensor([0.5, -1.0, 2.0]).to(dtype).requires_grad_()
    cotangent = torch.tensor([1.0, 2.0, -0.5]).to(dtype)
    y = into_torch[1](lambda x: x * x, residuals=residuals)(x)
    (found,) = torch.autograd.grad(y, x, cotangent)
    assert found.dtype == dtype
    assert found.to(torch.complex64).tolist() == [1.0, -4.0, -2.0]


@pytest.mark.needs("complex128")
def test_gradients_of_mixed_dtypes(into_torch, torch):
    """Each gradient has the dtype of its own argument, whatever the result is promoted to."""
    names = ("float32", "float16", "bfloat16", "complex64", "float64")
    xs = [torch.tensor([0.5, -1.5]).to(getattr(torch, n)).requires_grad_() for n in names]
    product = lambda a, b, c, d, e: a * b * c * d * e
    y = into_torch[1](product)(*xs)
    assert y.dtype == torch.complex128
    cotangent = torch.tensor([0.3 - 1j, 2 + 0.7j], dtype=torch.complex128)
    found = torch.autograd.grad(y, xs, cotangent)
    wanted = torch.autograd.grad(product(*xs), xs, cotangent)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_gradient_of_a_real_argument_of_a_complex_function_is_real(into_torch, torch):
    source, wrap = into_torch
    function = lambda xp, x: xp.exp(x * (0.7 - 1.3j))
    x = torch.tensor([0.5, -1.5], requires_grad=True)
    cotangent = torch.tensor([0.3 - 1j, 2 + 0.7j])
    there = wrap(lambda x: function(source.xp, x))
    (found,) = torch.autograd.grad(there(x), x, cotangent)
    (wanted,) = torch.autograd.grad(function(torch, x), x, cotangent)
    torch.testing.assert_close(found, wanted)
