"""Every dtype comes back as it went in, and 64 bits are narrowed by nobody silently."""

import numpy as np
import pytest

import bridge
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


# 64-bit floats.


X = np.array([1 / 3, -1.2, 2 / 7])


def test_float64_is_computed_in_float64(jax, torch):
    x = torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda x: jax.numpy.sin(x) * jax.numpy.exp(x))(x)
    assert y.dtype == torch.float64
    wanted = torch.sin(x) * torch.exp(x)
    torch.testing.assert_close(y, wanted, rtol=1e-13, atol=1e-13)
    cotangent = torch.tensor(X[::-1].copy())
    torch.testing.assert_close(
        torch.autograd.grad(y, x, cotangent),
        torch.autograd.grad(wanted, x, cotangent),
        rtol=1e-12,
        atol=1e-12,
    )


def test_complex128_is_computed_in_complex128(jax, torch):
    z = torch.tensor(X + 1j * X[::-1], requires_grad=True)
    y = jax2torch(lambda z: jax.numpy.exp(z) * z)(z)
    torch.testing.assert_close(y, torch.exp(z) * z, rtol=1e-13, atol=1e-13)
    (found,) = torch.autograd.grad(y.abs().sum(), z)
    (wanted,) = torch.autograd.grad((torch.exp(z) * z).abs().sum(), z)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_global_flag_stays(jax, torch):
    before = jax.config.jax_enable_x64
    inside = []
    there = jax2torch(lambda x: inside.append(jax.config.jax_enable_x64) or x * 2)
    x = torch.tensor(X, requires_grad=True)
    there(x).sum().backward()
    there(x.detach().float())
    assert inside == [True, before]
    assert jax.config.jax_enable_x64 == before
    assert jax.numpy.zeros(1).dtype == np.float32


def test_global_flag_stays_after_an_error(jax, torch):
    def fail(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no\b"):
        jax2torch(fail)(torch.tensor(X))
    assert jax.numpy.zeros(1).dtype == np.float32


ASKED = {
    "float32": (None, "float32", np.float32),
    "float64": (None, "float64", np.float64),
    "complex128": (None, "complex128", np.float64),
    "float32, x64=True": (True, "float32", np.float64),
    "float32, x64=False": (False, "float32", np.float32),
    "int32": (None, "int32", np.float32),
    "int64": (None, "int64", np.float32),
    "int64, x64=True": (True, "int64", np.float64),
}


@pytest.mark.parametrize(("x64", "name", "default"), ASKED.values(), ids=ASKED)
def test_default_dtype_inside(jax, torch, x64, name, default):
    seen = []
    there = jax2torch(lambda x: seen.append(jax.numpy.zeros(1).dtype) or x, x64=x64)
    there(torch.ones(2, dtype=getattr(torch, name)))
    assert seen == [default]


@pytest.mark.parametrize("name", ["float64", "complex128"])
def test_x64_false_refuses_to_narrow(jax, torch, name):
    def f(first, second):
        return second

    x = torch.ones(3, dtype=getattr(torch, name))
    with pytest.raises(bridge.ArgumentError, match=rf"argument second of f .*{name}\[3\].*x64"):
        jax2torch(f, x64=False)(torch.ones(2), x)


def test_x64_false_refuses_a_float64_of_numpy(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"argument w of .*float64\[3\].*x64"):
        jax2torch(lambda x, w: x * w, x64=False)(torch.ones(3), X)


def test_float64_of_numpy_asks_for_64_bits(jax, torch):
    found = jax2torch(lambda x, w: x * jax.numpy.sin(w))(torch.ones(3), X)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), np.sin(X), rtol=1e-13)


def test_global_flag_decides_where_the_arguments_do_not(jax, torch):
    there = jax2torch(lambda x: x + jax.numpy.zeros(3))
    x = torch.ones(3)
    assert there(x).dtype == torch.float32
    with jax.enable_x64(True):
        assert there(x).dtype == torch.float64
    assert there(x).dtype == torch.float32


def test_x64_false_holds_against_the_global_flag(jax, torch):
    there = jax2torch(lambda x: x + jax.numpy.zeros(3), x64=False)
    with jax.enable_x64(True):
        assert there(torch.ones(3)).dtype == torch.float32


@pytest.mark.parametrize("inside", ["forward", "backward"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_flag_that_changes_before_backward(jax, torch, name, inside):
    x = torch.tensor(X, dtype=getattr(torch, name), requires_grad=True)
    there = jax2torch(lambda x: jax.numpy.sin(x) * x)
    with jax.enable_x64(inside == "forward"):
        y = there(x).sum()
    with jax.enable_x64(inside == "backward"):
        (found,) = torch.autograd.grad(y, x)
    assert found.dtype == x.dtype
    (wanted,) = torch.autograd.grad((torch.sin(x) * x).sum(), x)
    torch.testing.assert_close(found, wanted)


def test_float64_result_of_a_float32_argument(jax, torch):
    """The cotangent is wider than the argument whose gradient it becomes."""
    x = torch.tensor(X, dtype=torch.float32, requires_grad=True)
    y = jax2torch(lambda x: x.astype("float64") ** 2, x64=True)(x)
    assert y.dtype == torch.float64
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, 2 * x.detach())


@pytest.mark.parametrize("jit", [True, False])
def test_float64_without_and_with_jit(jax, torch, jit):
    x = torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda x: jax.numpy.sin(x) + jax.numpy.zeros(3), jit=jit)(x)
    torch.testing.assert_close(y, torch.sin(x), rtol=1e-14, atol=1e-14)
    (found,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(found, torch.cos(x.detach()), rtol=1e-14, atol=1e-14)


# 64-bit integers.


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


# What the other side lacks.


LACKING = {
    "int4": (lambda jax, x: x.astype("int4"), r"int4"),
    "uint4": (lambda jax, x: x.astype("uint4"), r"uint4"),
    "float8_e4m3b11fnuz": (lambda jax, x: x.astype("float8_e4m3b11fnuz"), r"float8_e4m3b11fnuz"),
    "float0": (
        lambda jax, x: jax.grad(lambda n: x.sum() * n, allow_int=True)(3),
        r"float0",
    ),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("make", "text"), LACKING.values(), ids=LACKING)
def test_result_of_a_dtype_torch_lacks(jax, torch, make, text, requires_grad):
    def f(x):
        return {"fine": x, "odd": [make(jax, x)]}

    with pytest.raises(bridge.ArgumentError, match=rf"result.*odd.* of f\b.*{text}"):
        jax2torch(f)(torch.ones(3, requires_grad=requires_grad))


def test_result_of_a_dtype_torch_lacks_without_jit(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"result.*int4"):
        jax2torch(lambda x: x.astype("int4"), jit=False)(torch.ones(3))


@pytest.mark.parametrize("value", ["sine", abs, {1, 2}], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("jit", [True, False])
def test_result_that_is_no_array(jax, torch, jit, value):
    with pytest.raises(bridge.ArgumentError, match=rf"result.*odd.*{type(value).__name__}"):
        jax2torch(lambda x: {"y": x, "odd": value}, jit=jit)(torch.ones(3))


def test_result_of_torch(jax, torch):
    """A tensor that the function closes over, or a mix-up of namespaces."""
    constant = torch.ones(3)
    with pytest.raises(bridge.ArgumentError, match=r"result.*odd.*torch"):
        jax2torch(lambda x: {"y": x, "odd": constant})(torch.ones(3))


def test_low_precision_inside_does_not_cross(jax, torch):
    """A dtype torch lacks is only a matter of what crosses."""
    x = torch.tensor([1.0, 5.0])
    found = jax2torch(lambda x: x.astype("int4").astype("float32"))(x)
    torch.testing.assert_close(found, x)


def test_residual_of_a_dtype_torch_lacks(jax, torch):
    """Residuals live as tensors between forward and backward."""
    x = torch.tensor([0.5, -1.5], requires_grad=True)

    @jax.custom_vjp
    def scaled(x):
        return x * 3

    scaled.defvjp(
        lambda x: (x * 3, (x * 4).astype("int4")), lambda r, c: (c * r.astype("float32"),)
    )
    (found,) = torch.autograd.grad(jax2torch(scaled)(x).sum(), x)
    torch.testing.assert_close(found, torch.tensor([2.0, -6.0]))
