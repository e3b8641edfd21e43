"""Every error of bridge can be caught as bridge's, as Python's, and by a public name."""

import inspect

import pytest

import bridge
from bridge._core import errors

ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("kind", ERRORS)
def test_error_is_public(kind):
    assert getattr(bridge, kind.__name__) is kind


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind is not bridge.BridgeError])
def test_error_is_also_a_builtin(kind):
    assert issubclass(kind, bridge.BridgeError)
    builtin = [base for base in kind.__mro__ if base.__module__ == "builtins"]
    assert set(builtin) - {Exception, BaseException, object}


@pytest.mark.parametrize("kind", ERRORS)
def test_error_says_when_it_is_raised(kind):
    assert vars(kind)["__doc__"]
