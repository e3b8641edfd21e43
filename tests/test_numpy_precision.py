"""Precision of functions on NumPy arrays, and rules that meet in one derivative."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.func import hessian, jacrev, jvp  # noqa: E402

from bridge import ArgumentError, OptionError, numpy2torch  # noqa: E402
from bridge.rules import (  # noqa: E402
    SPSA,
    ComplexStep,
    FiniteDifference,
    Jacobian,
    ParameterShift,
    Vjp,
)

X = (0.3, 1.1)
FORWARD = FiniteDifference(strategy="forward")


def leaf(x=X, dtype=torch.float64):
    return torch.tensor(x, dtype=dtype, requires_grad=True)


def assert_gradient_of_sine(f, x, tolerance):
    y = f(x)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype) == (x.dtype, x.dtype)
    expected = x.detach().double().cos().to(x.dtype)
    torch.testing.assert_close(x.grad, expected, atol=tolerance, rtol=0)


# Precision.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "rule",
    [
        ParameterShift(),
        FiniteDifference(),
        FORWARD,
    ],
    ids=str,
)
def test_computing_in_double(dtype, rule):
    seen, x = [], leaf(np.linspace(0.1, 1.5, 40), dtype)

    def fn(x):
        seen.append(x.dtype)
        return np.sin(x) + 0.1

    resolution = torch.finfo(dtype).eps / 2
    assert_gradient_of_sine(numpy2torch(fn, gradient=rule, dtype="float64"), x, 1.1 * resolution)
    assert {np.real(np.empty(0, kind)).dtype for kind in seen} == {np.dtype("float64")}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        *(dtype for dtype in (torch.float16, torch.bfloat16)),
    ],
)
def test_complex_steps_in_double(dtype):
    f = numpy2torch(np.sin, gradient=ComplexStep(), dtype="float64")
    assert_gradient_of_sine(f, leaf(dtype=dtype), torch.finfo(dtype).eps)


def test_computing_in_double_in_forward_mode_and_second_order():
    def fn(x):
        return np.exp(x[0] * np.sin(x[1]))

    for rule in (FiniteDifference(), FORWARD):
        f, x = numpy2torch(fn, gradient=rule, dtype="float64"), torch.tensor(X)
        native = lambda x: torch.exp(x[0] * torch.sin(x[1]))
        torch.testing.assert_close(jvp(f, (x,), (x,)), jvp(native, (x,), (x,)))
    f = numpy2torch(fn, gradient=FiniteDifference(), dtype="float64")
    torch.testing.assert_close(hessian(f)(x), hessian(native)(x), atol=1e-5, rtol=0)


def test_computing_in_double_with_complex_arguments():
    seen = []

    def fn(x):
        seen.append(x.dtype)
        return x * x

    z = leaf((0.3 + 1j, -0.7 + 0.2j), torch.complex64)
    y = numpy2torch(fn, gradient=FiniteDifference(), dtype="float64")(z)
    assert (y.dtype, {*seen}) == (torch.complex64, {np.dtype("complex128")})
    w = torch.tensor([1 - 2j, 0.5j], dtype=torch.complex64)
    torch.testing.assert_close(torch.autograd.grad(y, z, w)[0], 2 * z.detach().conj() * w)


def test_results_that_are_told_are_rounded_too():
    f = numpy2torch(np.sin, gradient=FiniteDifference(), dtype="float64", out=np.empty(2))
    assert_gradient_of_sine(f, leaf(dtype=torch.float32), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [FiniteDifference(), FiniteDifference(accuracy=4)], ids=str)
def test_steps_suit_the_precision(dtype, rule):
    # The error of rounding and that of the difference are alike, as powers of the precision.
    order = rule.accuracy / (rule.accuracy + 1)
    tolerance = 10 * torch.finfo(dtype).eps ** order
    assert_gradient_of_sine(numpy2torch(np.sin, gradient=rule), leaf(dtype=dtype), tolerance)


@pytest.mark.parametrize(
    "rule",
    [
        FiniteDifference(),
        FORWARD,
    ],
    ids=str,
)
def test_steps_suit_the_precision_of_results(rule):
    f = numpy2torch(lambda x: np.sin(x.astype(np.float32)), gradient=rule)
    x = leaf(np.linspace(0.1, 1.5, 40))
    f(x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos(), atol=1e-3, rtol=0)


def test_steps_of_second_order_suit_the_precision_of_results():
    f = numpy2torch(lambda x: np.sin(x.astype(np.float32)).sum(), gradient=FiniteDifference())
    x = leaf().detach()
    torch.testing.assert_close(hessian(f)(x), torch.diag(-x.sin()), atol=0.05, rtol=0)


def test_gradients_have_the_dtypes_of_arguments():
    f = numpy2torch(lambda x, y, n: np.sin(x) * np.cos(y) * n, gradient=ParameterShift())
    x, y = leaf(dtype=torch.float32), leaf()
    result = f(x, y, torch.tensor([2, 3]))
    result.sum().backward()
    assert (result.dtype, x.grad.dtype, y.grad.dtype) == (y.dtype, x.dtype, y.dtype)
    n = torch.tensor([2, 3])
    torch.testing.assert_close(y.grad, (-x.sin() * y.sin() * n).detach().double())


@pytest.mark.parametrize("x", [3e6, 0.5, -2e-3])
def test_steps_are_relative_to_large_arguments(x):
    x = leaf(x)
    numpy2torch(lambda x: x**3, gradient=FiniteDifference(accuracy=4))(x).backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2, rtol=1e-8, atol=1e-10)


def test_large_results_do_not_spoil_small_ones():
    x = leaf((3e6, 0.5))
    numpy2torch(lambda x: x**3, gradient=FiniteDifference())(x).sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2, rtol=1e-6, atol=0)


def test_many_results_in_single_precision():
    times = np.linspace(0, 1, 1000, dtype=np.float32)
    f = numpy2torch(lambda x: 10 + np.sin(x * times), gradient=FiniteDifference())
    (backward, forward, expected), points = ([], [], []), np.linspace(0.3, 1.5, 20)
    for x in points:
        x = leaf(x, torch.float32)
        backward.append(torch.autograd.grad(f(x).sum(), x)[0])
        forward.append(jvp(f, (x.detach(),), (torch.tensor(1.0),))[1].sum())
        expected.append(np.sum(np.cos(x.item() * times) * times))
    expected = torch.tensor(np.array(expected))
    torch.testing.assert_close(torch.stack(forward), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(torch.stack(backward), expected, rtol=1e-3, atol=0)


def test_complex_steps_in_single_precision():
    x = leaf(dtype=torch.float32)
    numpy2torch(lambda x: 1e14 * (1e-14 * x), gradient=ComplexStep())(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2))


@pytest.mark.parametrize("rule", [SPSA(), ParameterShift()], ids=lambda rule: type(rule).__name__)
def test_steps_at_large_arguments_are_refused(rule):
    f = numpy2torch(lambda x: np.sin(x).sum(), gradient=rule)
    with pytest.raises(ArgumentError, match=r"so large that steps of .* are below their precision"):
        f(leaf((1e8, 2e8), torch.float32)).backward()
    x = leaf((1e6,))
    f(x).backward()
    torch.testing.assert_close(x.grad, x.detach().cos(), rtol=1e-4, atol=0)


# Several rules in one derivative.


def line(x, y):
    return 3 * x.sum() + 5 * y.sum()


def product(x, y):
    return (x**2 * np.sin(y)).sum()


def test_complex_steps_of_two_sizes():
    x, y = leaf(), leaf()
    numpy2torch(line, gradient={"x": ComplexStep(), "y": ComplexStep(h=1e-20)})(x, y).backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([3, 3], [5, 5])


@pytest.mark.parametrize("other", [ParameterShift(), FiniteDifference(accuracy=4)], ids=str)
def test_complex_steps_and_real_shifts(other):
    x, y = leaf(), leaf((0.7, -0.4))
    numpy2torch(product, gradient={"x": ComplexStep(), "y": other})(x, y).backward()
    torch.testing.assert_close(x.grad, (2 * x * y.sin()).detach())
    torch.testing.assert_close(y.grad, (x**2 * y.cos()).detach())


@pytest.mark.parametrize("other", [ParameterShift(), FiniteDifference(accuracy=4)], ids=str)
def test_complex_steps_and_real_shifts_in_forward_mode(other):
    x, y = leaf().detach(), leaf((0.7, -0.4)).detach()
    t = jvp(numpy2torch(product, gradient={"x": ComplexStep(), "y": other}), (x, y), (y, x))[1]
    torch.testing.assert_close(t, (2 * x * y.sin() * y + x**2 * y.cos() * x).sum())


def test_differences_and_shifts():
    rules = {"x": FORWARD, "y": ParameterShift()}
    x, y = leaf(), leaf((0.7, -0.4))
    numpy2torch(product, gradient=rules)(x, y).backward()
    torch.testing.assert_close(x.grad, (2 * x * y.sin()).detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.grad, (x**2 * y.cos()).detach())


def test_a_rule_and_the_then_of_another_by_the_same_argument():
    """The Hessian shifts `x` by its own rule for itself, and by `then` of that of `y`."""

    def gradient(primals, cotangents, outputs):
        return None, np.cos(2 * primals[0] + primals[1]) * cotangents

    rules = {"x": ParameterShift((2,)), "y": Vjp(gradient, then=ParameterShift((1, 2, 3)))}
    f, x, y = numpy2torch(lambda x, y: np.sin(2 * x + y), gradient=rules), leaf(0.3), leaf(0.8)
    found, expected = (
        jacrev(jacrev(g, (0, 1)), (0, 1))(x, y) for g in (f, lambda x, y: (2 * x + y).sin())
    )
    torch.testing.assert_close(found, expected)


def test_tiny_frequencies():
    f = numpy2torch(
        lambda x: np.sin(1e-9 * x) + np.sin(3e-9 * x), gradient=ParameterShift((1e-9, 3e-9))
    )
    x = leaf(3e8)
    f(x).backward()
    torch.testing.assert_close(x.grad * 1e9, torch.tensor(np.cos(0.3) + 3 * np.cos(0.9)))


def test_complex_steps_of_own_gradients():
    rule = Vjp(lambda p, c, y: 3 * p[0] ** 2 * c, then=ComplexStep())
    x = leaf().detach()
    found = hessian(numpy2torch(lambda x: (x**3).sum(), gradient=rule))(x)
    torch.testing.assert_close(found, torch.diag(6 * x))


def test_own_derivatives_of_own_derivatives_are_refused():
    with pytest.raises(OptionError, match="then="):
        Vjp(lambda p, c, y: c, then=Vjp(lambda p, c, y: c))


def test_jacobians_of_complex_results():
    f = numpy2torch(lambda x: x * (1 + 2j), gradient=Jacobian(lambda x: np.eye(2) * (1 + 2j)))
    x, w = leaf(), torch.tensor([1 - 0.3j, 2 + 1j], dtype=torch.complex128)
    torch.testing.assert_close(torch.autograd.grad(f(x), x, w)[0], (w * (1 - 2j)).real)
