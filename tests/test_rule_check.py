"""`bridge.testing.check_rule`: rules that do not suit the function."""

import numpy as np
import pytest

from bridge import ArgumentError, numpy2torch
from bridge.rules import (
    SPSA,
    ComplexStep,
    FiniteDifference,
    Jacobian,
    Jvp,
    ParameterShift,
    Vjp,
)
from bridge.testing import check_rule

torch = pytest.importorskip("torch")


def angles(x, y):
    """Frequency 1 in x[0], 1 and 2 in x[1], 0.5 in y."""
    return np.array([np.cos(x[0]) * np.sin(x[1]) ** 2 + np.sin(x[1]), np.cos(y / 2) * np.sin(x[0])])


@pytest.fixture
def args():
    return torch.tensor([0.3, -1.1], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)


RIGHT = {"x": ParameterShift([[1], [1, 2]]), "y": ParameterShift((0.5,))}


def test_right_frequencies_pass(args):
    check_rule(numpy2torch(angles, gradient=RIGHT), *args)


def test_more_frequencies_than_there_are_pass(args):
    rules = {"x": ParameterShift((1, 2, 3)), "y": ParameterShift((0.5, 1))}
    check_rule(numpy2torch(angles, gradient=rules), *args)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"x": ParameterShift()}, r"\(1.0,\) in x\[1\]: shifted by .* it returns .* gives "),
        ({**RIGHT, "y": ParameterShift()}, r"frequencies \(1.0,\) in y: "),
        ({"x": ParameterShift([[0.5], [1, 2]])}, r"in x\[0\]"),
    ],
)
def test_frequencies_that_are_missing_are_found(args, rules, text, seed):
    with pytest.raises(AssertionError, match=text):
        check_rule(numpy2torch(angles, gradient=rules), *args, seed=seed)


def test_a_vectorized_function_with_shots_has_a_tolerance():
    random = np.random.default_rng(0)

    def shots(x):
        return np.cos(x[:, 0]) + random.normal(size=len(x)) * 1e-3

    f = numpy2torch(shots, gradient=ParameterShift(), vectorized=True)
    x = torch.tensor([0.4], dtype=torch.float64)
    check_rule(f, x, atol=0.02)
    with pytest.raises(AssertionError, match="in x"):
        check_rule(f, x, atol=1e-6)


def square(x):
    return x**2 * np.array([1.0, 3.0])


@pytest.mark.parametrize(
    "rule",
    [
        FiniteDifference(),
        ComplexStep(),
        Vjp(lambda xs, w, y: 2 * xs[0] * w * [1.0, 3.0]),
        Jvp(lambda xs, v: 2 * xs[0] * v[0] * [1.0, 3.0]),
        Jacobian(lambda x: np.diag(2 * x * [1.0, 3.0])),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_other_rules_are_compared_with_differences(rule):
    check_rule(numpy2torch(square, gradient=rule), torch.tensor([0.5, -2.0], dtype=torch.float64))


def test_a_wrong_gradient_is_found():
    wrong = Vjp(lambda xs, w, y: 2 * xs[0] * w)
    x = torch.tensor([0.5, -2.0], dtype=torch.float64)
    with pytest.raises(
        AssertionError, match=r"gradient of square by x\[1\] is .* by its rule, and"
    ):
        check_rule(numpy2torch(square, gradient=wrong), x)


def test_a_missing_frequency_of_a_second_derivative_is_found():
    jacobian = lambda x: np.diag(-2 * np.sin(2 * x))
    x = torch.tensor([0.3, 0.7], dtype=torch.float64)
    wrong = Jacobian(jacobian, then=ParameterShift())
    with pytest.raises(AssertionError, match=r"frequencies \(1.0,\) in x\[0\]"):
        check_rule(numpy2torch(lambda x: np.cos(2 * x), gradient=wrong), x)
    right = Jacobian(jacobian, then=ParameterShift((1, 2)))
    check_rule(numpy2torch(lambda x: np.cos(2 * x), gradient=right), x)


def test_what_cannot_be_checked_is_an_error():
    x = torch.tensor([0.5, -2.0], dtype=torch.float64)
    with pytest.raises(ArgumentError, match="random"):
        check_rule(numpy2torch(square, gradient=SPSA()), x)
    with pytest.raises(ArgumentError, match="no argument of square"):
        check_rule(numpy2torch(square), x)
    with pytest.raises(ArgumentError, match="check_gradients"):
        check_rule(square, x)
