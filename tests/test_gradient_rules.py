"""Rules for functions without autodiff: their coefficients against closed forms."""

import math
import pickle

import numpy as np
import pytest

from bridge import OptionError
from bridge._core.gradient_rules import (
    SPSA,
    ComplexStep,
    FiniteDifference,
    Jacobian,
    ParameterShift,
)
from bridge._sources.numpy.stencils import difference_stencil, period, shift_stencil

# PennyLane 0.45.1 has the rules of the fourth to the eighth wrong, and none for the ninth.
FREQUENCIES = [
    *((1.0,), (2.5,), (0.5, 1.0), (1.0, 3.0), (2.0, 3.0), (1.0, 1.5), (0.7, 1.9), (1.0, 3.0, 5.0)),
    *((1.0, 2.0, 4.0), (1.0, 2.0, 3.0), (0.3, 0.6, 0.9, 1.2, 1.5), (1.0, 1.01), (1.0, 40.0)),
]
POINTS = np.array([-2.3, 0.0, 0.4, 1.9])


class FourierSum:
    """A sum of random cosines and sines of these frequencies, and a constant."""

    def __init__(self, frequencies):
        random = np.random.default_rng(3)
        self.w, self.a, self.b = np.array(frequencies), *random.normal(size=(2, len(frequencies)))

    def __call__(self, x):
        angles = np.multiply.outer(x, self.w)
        return 0.7 + np.cos(angles) @ self.a + np.sin(angles) @ self.b

    def slope(self, x):
        angles = np.multiply.outer(x, self.w)
        return -np.sin(angles) @ (self.w * self.a) + np.cos(angles) @ (self.w * self.b)


def derivative(f, stencil):
    coefficients, shifts = stencil
    return f(np.add.outer(POINTS, shifts)) @ coefficients


@pytest.mark.parametrize("frequencies", FREQUENCIES)
def test_shifts_are_exact(frequencies):
    f = FourierSum(frequencies)
    found = derivative(f, shift_stencil(frequencies))
    np.testing.assert_allclose(found, f.slope(POINTS), rtol=0, atol=1e-9 * max(frequencies) ** 2)


@pytest.mark.parametrize("frequencies", FREQUENCIES)
def test_shifts_amplify_noise_little(frequencies):
    """No rule can have a smaller sum of coefficients than the largest frequency."""
    coefficients, _ = shift_stencil(frequencies)
    assert max(frequencies) - 1e-9 <= np.abs(coefficients).sum() <= 1.03 * max(frequencies)


def test_shifts_of_the_user():
    f = FourierSum((1.0, 3.0))
    found = derivative(f, shift_stencil((1.0, 3.0), (0.4, 1.3)))
    np.testing.assert_allclose(found, f.slope(POINTS), atol=1e-12)
    with pytest.raises(OptionError, match=r"do not tell the frequencies \(1.0, 2.0\) apart"):
        shift_stencil((1.0, 2.0), (math.pi, 2 * math.pi))


@pytest.mark.parametrize("frequencies", FREQUENCIES)
def test_values_repeat_after_a_period(frequencies):
    turn, f = period(frequencies), FourierSum(frequencies)
    np.testing.assert_allclose(f(POINTS + turn), f(POINTS), atol=1e-9)
    assert not np.allclose(f(POINTS + turn / 2), f(POINTS))


def test_incommensurable_frequencies_have_no_period():
    assert period((1.0, math.sqrt(2))) is None
    assert period((1.0, math.pi)) is None


@pytest.mark.parametrize(
    ("strategy", "accuracy"),
    [
        *(("center", a) for a in (2, 4, 6)),
        *((s, a) for s in ("forward", "backward") for a in (1, 2, 3)),
    ],
)
def test_differences_are_exact_for_polynomials(strategy, accuracy):
    coefficients, shifts = difference_stencil(accuracy, strategy)
    assert len(shifts) == accuracy + (strategy != "center")
    for degree in range(accuracy + 1):
        found = derivative(lambda x, n=degree: x**n, (coefficients, shifts))
        np.testing.assert_allclose(found, degree * POINTS ** max(degree - 1, 0), atol=1e-9)
    assert not np.allclose(
        derivative(lambda x: x ** (accuracy + 1), (coefficients, shifts)),
        (accuracy + 1) * POINTS**accuracy,
    )


def test_known_differences():
    np.testing.assert_allclose(difference_stencil(2, "center")[0], [-0.5, 0.5])
    np.testing.assert_allclose(difference_stencil(4, "center")[0] * 12, [1, -8, 8, -1], atol=1e-12)
    np.testing.assert_allclose(difference_stencil(2, "forward")[0], [-1.5, 2, -0.5], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ParameterShift((0.0,)), "positive and to differ"),
        (lambda: ParameterShift((1, -2)), "positive and to differ"),
        (lambda: ParameterShift((1, 1)), "positive and to differ"),
        (lambda: ParameterShift(((1, 2), (1, 1.0))), "positive and to differ"),
        (lambda: ParameterShift(()), "positive and to differ"),
        (lambda: ParameterShift((1, 2), (0.3,)), "one shift for each frequency"),
        (lambda: ParameterShift((1,), (0.0,)), "shifts have to be positive"),
        (lambda: FiniteDifference(h=0.0), "h=0.0 has to be a positive number"),
        (lambda: FiniteDifference(h=math.nan), "positive number"),
        (lambda: FiniteDifference(accuracy=3), "2, 4, and so on"),
        (lambda: FiniteDifference(accuracy=0, strategy="forward"), "1, 2, and so on"),
        (lambda: FiniteDifference(strategy="centre"), "strategy='centre' is none"),
        (lambda: ComplexStep(then=ParameterShift()), "has to be a FiniteDifference"),
        (lambda: SPSA(num_directions=0), "has to be 1 or more"),
    ],
)
def test_impossible_rules_are_refused(make, text):
    with pytest.raises(OptionError, match=text):
        make()


def test_rules_are_values():
    rules = [ParameterShift((1, 2)), FiniteDifference(), SPSA(seed=3), Jacobian(math.sin, SPSA())]
    for rule in rules:
        assert pickle.loads(pickle.dumps(rule)) == rule
    assert len({*rules, ParameterShift((1, 2))}) == 4
