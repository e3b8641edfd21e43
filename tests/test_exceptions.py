"""Exceptions of the user pass through with type, text and line."""

import traceback

import numpy as np
import pytest

from bridge import jax2torch

X = np.array([0.3, -1.2, 2.0], np.float32)


class WrongPhysicsError(Exception):
    def __init__(self, code):
        super().__init__(f"energy below zero (code {code})")
        self.code = code


def fail(x):
    raise WrongPhysicsError(7)


OPTIONS = pytest.mark.parametrize("options", [{}, {"jit": False}], ids=str)


@OPTIONS
def test_exception_keeps_its_type_text_and_line(kits, bridged, options):
    _, target = kits
    with pytest.raises(WrongPhysicsError, match=r"^energy below zero \(code 7\)") as caught:
        bridged(fail, **options)(target.array(X))
    assert caught.value.code == 7
    assert caught.value.args == ("energy below zero (code 7)",)
    frames = traceback.extract_tb(caught.value.__traceback__)
    (frame,) = [frame for frame in frames if frame.name == "fail"]
    assert (frame.filename, frame.line) == (__file__, "raise WrongPhysicsError(7)")


@OPTIONS
def test_exception_comes_without_those_of_the_library(kits, bridged, options):
    """No 'During handling of the above exception' with a KeyError nobody knows."""
    _, target = kits
    with pytest.raises(WrongPhysicsError, match=r"energy below zero") as caught:
        bridged(fail, **options)(target.array(X))
    assert "KeyError" not in "".join(traceback.format_exception(caught.value))


@OPTIONS
def test_exception_where_gradients_are_wanted(into_torch, torch, options):
    with pytest.raises(WrongPhysicsError, match=r"energy below zero"):
        into_torch[1](fail, **options)(torch.tensor(X, requires_grad=True))


@OPTIONS
def test_exception_under_a_transformation(kits, bridged, options):
    _, target = kits
    there = bridged(fail, **options)
    with pytest.raises(WrongPhysicsError, match=r"energy below zero"):
        target.vmap(there)(target.array(X))
    with pytest.raises(WrongPhysicsError, match=r"energy below zero"):
        target.grad(there)(target.array(X))


@OPTIONS
def test_exception_in_the_rule_of_a_derivative(jax, torch, options):
    """With jit in the first call, else in backward: anyway as the user raised it."""

    @jax.custom_vjp
    def identity(x):
        return x * 1

    def backward(_, cotangent):
        raise WrongPhysicsError(3)

    identity.defvjp(lambda x: (x * 1, None), backward)
    there = jax2torch(identity, **options)
    with pytest.raises(WrongPhysicsError, match=r"code 3"):
        there(torch.tensor(X, requires_grad=True)).sum().backward()


def test_exception_does_not_spoil_the_next_call(kits, bridged):
    _, target = kits
    broken = [True]

    def function(x):
        if broken:
            raise WrongPhysicsError(1)
        return x * 2

    there = bridged(function)
    for _ in range(2):
        with pytest.raises(WrongPhysicsError, match=r"code 1"):
            there(target.array(X))
    broken.clear()
    np.testing.assert_allclose(target.numpy(there(target.array(X))), X * 2)


def test_missing_argument_is_the_error_of_python(kits, bridged):
    _, target = kits

    def energy(x, y):
        return x * y

    with pytest.raises(TypeError, match=r"energy\(\) missing 1 required positional argument: 'y'"):
        bridged(energy)(target.array(X))
    with pytest.raises(TypeError, match=r"energy\(\) got an unexpected keyword argument 'z'"):
        bridged(energy)(target.array(X), z=3)


def test_error_of_shapes_is_that_of_jax(jax, torch):
    with pytest.raises(TypeError, match=r"incompatible shapes.*\(3,\).*\(2,\)"):
        jax2torch(lambda x, y: x + y)(torch.ones(3), torch.ones(2))
