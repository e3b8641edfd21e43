"""Dtypes of arguments and results of bridged functions in compiled code."""

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import COMPILED, assert_close, compiled, rows, with_gradients, written_for  # noqa: E402

pytestmark = COMPILED

DTYPES = {
    "float64": (lambda xp, x: xp.sin(x) * x, rows().double()),
    "float16": (lambda xp, x: x * 2, rows().half()),
    "bfloat16": (lambda xp, x: x * 2, rows().bfloat16()),
    "int64": (lambda xp, x: x * 2 + 1, torch.tensor([3, -4, 5])),
    "int32": (lambda xp, x: x * 2 + 1, torch.tensor([3, -4, 5], dtype=torch.int32)),
    "bool": (lambda xp, x: ~x, torch.tensor([True, False])),
    "complex64": (lambda xp, x: x * x, torch.tensor([0.3 - 1.2j, 1.1 + 0.4j])),
    "complex128": (lambda xp, x: x * x, torch.tensor([0.3 - 1.2j, 1.1 + 0.4j]).to(torch.cdouble)),
}


@pytest.mark.parametrize(("function", "x"), DTYPES.values(), ids=DTYPES)
def test_dtypes_equal_native(into_torch, function, x):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    torch.testing.assert_close(compiled(lambda x: f(x))(x), function(torch, x))


def test_float64_is_exact_with_its_gradient(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)
    x = rows().double()
    found = with_gradients(compiled(lambda x: f(x)), x)
    expected = with_gradients(lambda x: x.sin() * x, x)
    exact = {"rtol": 1e-14, "atol": 1e-14}
    torch.testing.assert_close(found, expected, **(source.accuracy or exact))


def test_complex_gradient(into_torch):
    source, wrap = into_torch
    f = wrap(lambda z: source.xp.sin(z) * z)
    points = torch.tensor([0.3 - 1.2j, 1.1 + 0.4j])
    found, expected = points.clone().requires_grad_(), points.clone().requires_grad_()
    compiled(lambda z: (f(z) * (2 + 1j)).sum().real)(found).backward()
    ((expected.sin() * expected) * (2 + 1j)).sum().real.backward()
    assert_close(found.grad, expected.grad)


def test_int64_index_next_to_floats(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, i: (source.xp.sin(x)[i], i + 1))
    x, i = rows(), torch.tensor([2, 0, 3])
    step = compiled(lambda x, i: f(x, i))
    torch.testing.assert_close(with_gradients(step, x, i), with_gradients(indexed, x, i))


def indexed(x, i):
    return x.sin()[i], i + 1


INTEGERS = {
    "argmax": (lambda x, i: x.argmax(), ()),
    "argmax of float64": (lambda x, i: x.argmax(), (torch.float64,)),
    "index": (lambda x, i: i * 2, ()),
    "index next to float64": (lambda x, i: i * 2, (torch.float64,)),
    "comparison": (lambda x, i: x > 0, ()),
    "number": (lambda x, i: 3, ()),
}


@pytest.mark.parametrize(("function", "dtype"), INTEGERS.values(), ids=INTEGERS)
def test_dtypes_of_integer_results_are_those_of_eager(into_torch, function, dtype):
    _, wrap = into_torch
    f = wrap(function)
    x, i = rows().to(*dtype), torch.tensor([2, 0, 3])
    torch.testing.assert_close(compiled(lambda x, i: f(x, i))(x, i), f(x, i))
