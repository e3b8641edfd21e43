"""Methods, partial functions and callable objects as functions."""

import functools

import numpy as np
import pytest

X = np.array([0.3, -1.2, 2.0], np.float32)


def test_decorated_method(kits, bridged):
    """`self` is a hashable object, hence static, and each instance has its own trace."""
    _, target = kits

    class Model:
        def __init__(self, power):
            self.power = power

        @bridged
        def call(self, x):
            return x**self.power

    for power in (2, 3, 2):
        found = target.numpy(Model(power).call(target.array(X)))
        np.testing.assert_allclose(found, X**power, rtol=1e-6)


@pytest.mark.parametrize("options", [{"static_argnums": 0}, {"static_argnames": "self"}], ids=str)
def test_method_with_static_self(kits, bridged, options):
    _, target = kits

    class Model:
        power = 3

        def call(self, x, n):
            return x**self.power * n

        there = bridged(call, **options)

    found = target.numpy(Model().there(target.array(X), n=2))
    np.testing.assert_allclose(found, X**3 * 2, rtol=1e-6)


def test_static_method_and_class_attribute(kits, bridged):
    _, target = kits

    class Space:
        double = staticmethod(bridged(lambda x: x * 2))

    np.testing.assert_allclose(target.numpy(Space.double(target.array(X))), X * 2)
    np.testing.assert_allclose(target.numpy(Space().double(target.array(X))), X * 2)


def test_bound_method_is_a_function(kits, bridged):
    _, target = kits

    class Model:
        def call(self, x, n):
            return sum([x] * n)

    there = bridged(Model().call, static_argnums=1)
    np.testing.assert_allclose(target.numpy(there(target.array(X), 3)), X * 3, rtol=1e-6)


def test_partial_and_callable_object_are_functions(kits, bridged):
    _, target = kits

    class Call:
        def __call__(self, x, n):
            return sum([x] * n)

    x = target.array(X)
    found = bridged(functools.partial(Call(), n=2))(x)
    np.testing.assert_allclose(target.numpy(found), X * 2, rtol=1e-6)
    found = bridged(Call(), static_argnames="n")(x, 3)
    np.testing.assert_allclose(target.numpy(found), X * 3, rtol=1e-6)
