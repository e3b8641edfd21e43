"""Tensors of every layout, as arguments and as cotangents; what has none is refused."""

import numpy as np
import pytest

import bridge

BASE = np.array([[0.3, -1.2, 2.0, 0.7], [1.4, -0.6, 0.9, -2.1], [0.2, 1.7, -0.8, 1.1]], np.float32)
COMPLEX = (BASE + 1j * BASE[::-1] * 0.7).astype(np.complex64)


def function(xp, x):
    """Neither linear nor symmetric, so that misplaced elements show."""
    return xp.sin(x) * x + x * x * x


# Real tensors, made of a dense matrix by operations that gradients pass.
REAL = {
    "dense": lambda torch, x: x,
    "0-d": lambda torch, x: x[1, 2],
    "empty": lambda torch, x: x[:0],
    "empty axis in the middle": lambda torch, x: x[:, None][:, :0],
    "strided": lambda torch, x: x[:, ::2],
    "strided twice": lambda torch, x: x[::2, 1::2],
    "unaligned": lambda torch, x: x.flatten()[1:],
    "unaligned row": lambda torch, x: x[1],
    "transposed": lambda torch, x: x.T,
    "permuted": lambda torch, x: x.reshape(3, 2, 2).permute(1, 2, 0),
    "expanded": lambda torch, x: x[:1].expand(5, 4),
    "expanded 0-d": lambda torch, x: x[1, 2].expand(3),
    "flipped": lambda torch, x: x.flip(0),
    "diagonal": lambda torch, x: x.diagonal(),
    "overlapping": lambda torch, x: x.flatten().unfold(0, 4, 1),
    "channels last": lambda torch, x: x.reshape(1, 3, 2, 2).to(memory_format=torch.channels_last),
    "selected column": lambda torch, x: x[:, 1],
}
IMAGINARY = {
    "dense": lambda torch, z: z,
    "conj bit": lambda torch, z: z.conj(),
    "conj bit, transposed": lambda torch, z: z.mH,
    "conj bit, strided": lambda torch, z: z.conj()[:, ::2],
    "neg bit": lambda torch, z: z.conj().imag,
    "neg bit, strided": lambda torch, z: z.conj().imag[::2],
    "neg bit, 0-d": lambda torch, z: z.conj().imag[1, 2],
    "real part": lambda torch, z: z.real,
    "imaginary part": lambda torch, z: z.imag,
    "conj of conj": lambda torch, z: z.conj().conj(),
    "lazily negative complex": lambda torch, z: torch._neg_view(z),
}
ALL = {
    **{name: (make, BASE) for name, make in REAL.items()},
    **{f"complex {name}": (make, COMPLEX) for name, make in IMAGINARY.items()},
}


def weights(torch, y):
    """A cotangent without symmetry, complex where `y` is."""
    values = torch.linspace(-1.3, 2.1, max(y.numel(), 1))[: y.numel()].reshape(y.shape)
    return (values + 1j * values.cos()).to(y.dtype) if y.is_complex() else values.to(y.dtype)


def layouts(table):
    return pytest.mark.parametrize(("make", "base"), table.values(), ids=table)


@layouts(ALL)
def test_value(into_torch, torch, make, base):
    source, wrap = into_torch
    x = make(torch, torch.tensor(base))
    found = wrap(lambda x: function(source.xp, x))(x)
    torch.testing.assert_close(found, function(torch, x))
    assert found.is_contiguous()


@pytest.mark.parametrize("residuals", ["save", "recompute"])
@layouts(ALL)
def test_gradient_of_a_view(into_torch, torch, make, base, residuals):
    """The layout is that of the argument, which is no leaf."""
    source, wrap = into_torch
    there = wrap(lambda x: function(source.xp, x), residuals=residuals)
    gradients = []
    for call in (there, lambda x: function(torch, x)):
        x = torch.tensor(base, requires_grad=True)
        y = call(make(torch, x))
        gradients += torch.autograd.grad(y, x, weights(torch, y))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@layouts(ALL)
def test_gradient_of_a_leaf(into_torch, torch, make, base):
    """Without a view behind it, the tensor itself has the layout."""
    source, wrap = into_torch
    x = make(torch, torch.tensor(base)).detach().requires_grad_()
    y = wrap(lambda x: function(source.xp, x))(x)
    (found,) = torch.autograd.grad(y, x, weights(torch, y))
    (wanted,) = torch.autograd.grad(function(torch, x), x, weights(torch, y))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@layouts(ALL)
def test_gradient_under_a_transformation(into_torch, torch, make, base):
    source, wrap = into_torch
    there = wrap(lambda x: function(source.xp, x))
    x = make(torch, torch.tensor(base))
    y, pull = torch.func.vjp(there, x)
    found = pull(weights(torch, y))
    wanted = torch.func.vjp(lambda x: function(torch, x), x)[1](weights(torch, y))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


# Cotangents: `after` is a function of the output, whose backward makes them.
COTANGENTS = {
    "sum": lambda torch, y: y.sum(),
    "mean": lambda torch, y: y.mean(),
    "sum over an axis": lambda torch, y: (y.sum(1) ** 2).sum(),
    "permuted": lambda torch, y: (y.T * weights(torch, y.T)).sum(),
    "strided": lambda torch, y: (y[:, ::2] ** 3).sum(),
    "flipped": lambda torch, y: (y.flip(0) * weights(torch, y)).sum(),
    "conj bit": lambda torch, y: (y.to(torch.complex64).conj() ** 2).imag.sum() + y.sum(),
    "one element": lambda torch, y: y[1, 2] * 3,
    "expanded": lambda torch, y: y.expand(2, 3, 4).sum(),
    "cast": lambda torch, y: y.double().pow(2).sum(),
    "diagonal": lambda torch, y: y.diagonal().sum(),
}


@pytest.mark.parametrize("after", COTANGENTS.values(), ids=COTANGENTS)
def test_cotangent(into_torch, torch, after):
    source, wrap = into_torch
    there = wrap(lambda x: function(source.xp, x))
    gradients = []
    for call in (there, lambda x: function(torch, x)):
        x = torch.tensor(BASE, requires_grad=True)
        gradients += torch.autograd.grad(after(torch, call(x)), x)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


GIVEN = {
    "permuted": lambda torch, c: c.T.contiguous().T,
    "expanded": lambda torch, c: c[:1].expand_as(c),
    "strided": lambda torch, c: torch.stack([c, c], -1)[..., 0],
    "unaligned": lambda torch, c: torch.cat([c.new_zeros(1), c.flatten()])[1:].view_as(c),
    "conj bit": lambda torch, c: c.conj(),
    "neg bit": lambda torch, c: torch._neg_view(c),
}


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("layout", GIVEN.values(), ids=GIVEN)
def test_given_cotangent(into_torch, torch, layout, dtype):
    source, wrap = into_torch
    base = COMPLEX if dtype == "complex64" else BASE
    x = torch.tensor(base, requires_grad=True)
    y = wrap(lambda x: function(source.xp, x))(x)
    cotangent = layout(torch, weights(torch, y))
    (found,) = torch.autograd.grad(y, x, cotangent)
    (wanted,) = torch.autograd.grad(function(torch, x), x, cotangent)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_sparse_cotangent(into_torch, torch):
    """`embedding(sparse=True)` gives its weight a sparse gradient."""
    source, wrap = into_torch
    index = torch.tensor([2, 0, 2])
    there = wrap(lambda x: function(source.xp, x))
    gradients = []
    for call, sparse in ((there, True), (lambda x: function(torch, x), False)):
        x = torch.tensor(BASE, requires_grad=True)
        rows = torch.nn.functional.embedding(index, call(x), sparse=sparse)
        gradients += torch.autograd.grad(rows.pow(2).sum(), x)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_scalar_is_a_scalar(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(0.7, requires_grad=True)
    wrap(lambda x: source.xp.sin(x))(x).backward()
    torch.testing.assert_close(x.grad, torch.cos(x.detach()))
    assert x.grad.shape == ()


# Kinds of tensors.


def test_parameter(into_torch, torch):
    source, wrap = into_torch
    weight = torch.nn.Parameter(torch.tensor(BASE))
    y = wrap(lambda w: function(source.xp, w))(weight)
    assert type(y) is torch.Tensor
    y.sum().backward()
    (wanted,) = torch.autograd.grad(function(torch, weight).sum(), weight)
    torch.testing.assert_close(weight.grad, wanted, rtol=1e-5, atol=1e-5)


def test_buffer(into_torch, torch):
    buffer = torch.nn.Buffer(torch.tensor(BASE))
    torch.testing.assert_close(into_torch[1](lambda x: x * 2)(buffer), torch.tensor(BASE) * 2)


def test_subclass(into_torch, torch):
    class Named(torch.Tensor):
        pass

    source, wrap = into_torch
    x = torch.tensor(BASE).as_subclass(Named).requires_grad_()
    y = wrap(lambda x: function(source.xp, x))(x)
    plain = torch.tensor(BASE, requires_grad=True)
    torch.testing.assert_close(y.detach(), function(torch, plain).detach(), check_dtype=True)
    (found,) = torch.autograd.grad(y.sum(), x)
    (wanted,) = torch.autograd.grad(function(torch, plain).sum(), plain)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.needs("one trace")
def test_requires_grad_alone_does_not_retrace(into_torch, torch):
    runs = []
    there = into_torch[1](lambda x: runs.append(1) or x * 2)
    for make in (lambda x: x, lambda x: x.requires_grad_(), torch.nn.Parameter, lambda x: x.T.T):
        there(make(torch.tensor(BASE)))
    assert len(runs) == 1


def test_storage_longer_than_the_tensor(into_torch, torch):
    """A view sees a part of its storage, and only that part crosses."""
    whole = torch.arange(1000.0)
    found = into_torch[1](lambda x: x * 2)(whole[500:510])
    torch.testing.assert_close(found, torch.arange(500.0, 510.0) * 2)
    assert found.untyped_storage().nbytes() < whole.untyped_storage().nbytes()


# Meta tensors: shapes and dtypes, no values.


def test_meta_tensor(into_torch, torch):
    source, wrap = into_torch
    there = wrap(lambda x, n: {"y": source.xp.sin(x).sum(0), "i": source.xp.argmax(x, 1), "n": n})
    x = torch.empty(3, 4, device="meta")
    found = there(x, torch.empty(2, dtype=torch.complex64, device="meta"))
    described = {k: (v.device.type, tuple(v.shape), v.dtype) for k, v in found.items()}
    assert described["y"] == ("meta", (4,), torch.float32)
    assert described["n"] == ("meta", (2,), torch.complex64)
    assert described["i"][:2] == ("meta", (3,))


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "complex128", "int64", "bool"])
def test_dtype_of_a_meta_tensor(into_torch, torch, dtype):
    x = torch.empty(3, dtype=getattr(torch, dtype), device="meta")
    assert into_torch[1](lambda x: x[:2])(x).dtype == x.dtype


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_backward_of_meta_tensors(into_torch, torch, residuals):
    source, wrap = into_torch
    there = wrap(lambda x, w: source.xp.exp(x) @ w, residuals=residuals)
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    w = torch.empty(4, 2, device="meta", requires_grad=True)
    y = there(x, w)
    assert (y.shape, y.device.type, y.requires_grad) == ((3, 2), "meta", True)
    y.sum().backward()
    assert (x.grad.shape, x.grad.dtype, x.grad.device.type) == (x.shape, x.dtype, "meta")
    assert (w.grad.shape, w.grad.device.type) == (w.shape, "meta")


def test_second_derivative_of_meta_tensors(into_torch, torch):
    x = torch.empty(3, device="meta", requires_grad=True)
    y = into_torch[1](lambda x: x**3)(x).sum()
    (first,) = torch.autograd.grad(y, x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert (second.shape, second.device.type) == ((3,), "meta")


def test_meta_tensor_computes_nothing(into_torch, torch):
    """A matrix that would not fit into memory."""
    _, wrap = into_torch
    x = torch.empty(10**6, 10**6, device="meta")
    assert wrap(lambda x: x @ x)(x).shape == x.shape


def test_meta_model_is_moved_to_memory(into_torch, torch):
    """How large models are built: shapes first, values later; one function serves both."""
    source, wrap = into_torch
    there = wrap(lambda x: function(source.xp, x))
    x = torch.empty(3, 4, device="meta")
    assert there(x).shape == (3, 4)
    real = torch.tensor(BASE)
    torch.testing.assert_close(there(real), function(torch, real))


# What is refused.
REFUSED = {
    "sparse coo": (lambda torch, x: x.to_sparse(), r"argument x of f.*sparse.*to_dense"),
    "sparse csr": (lambda torch, x: x.to_sparse_csr(), r"argument x of f.*sparse.*to_dense"),
    "nested": (
        lambda torch, x: torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged),
        r"argument x of f.*nested.*to_padded_tensor",
    ),
    "quantized": (
        lambda torch, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        r"argument x of f.*qint8",
    ),
    "mkldnn": (lambda torch, x: x.to_mkldnn(), r"argument x of f.*mkldnn.*to_dense"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=REFUSED)
def test_refused(into_torch, torch, make, text, seen_before):
    """Also where a dense tensor of the same shape and dtype has been seen."""

    def f(x):
        return x

    there = into_torch[1](f)
    if seen_before:
        there(torch.tensor(BASE))
    try:
        x = make(torch, torch.tensor(BASE))
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch cannot make one here: {error}")
    with pytest.raises(bridge.ArgumentError, match=text):
        there(x)
