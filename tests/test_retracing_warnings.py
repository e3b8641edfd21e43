"""Warnings of functions that are traced anew too often."""

import warnings

import numpy as np
import pytest

X = np.array([0.3, -1.2, 2.0], np.float32)


def warned(call):
    """The texts of the warnings that `call` gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


def lengths(target, there, count):
    for length in range(1, count + 1):
        there(target.array(X[:1]), target.array(np.ones(length, np.float32)))


@pytest.mark.needs("one trace")
def test_many_traces_warn_once_and_name_what_varies(kits, bridged):
    _, target = kits

    def energy(fixed, padded):
        return fixed * padded

    (warning,) = warned(lambda: lengths(target, bridged(energy), 40))
    text = str(warning.message)
    assert "energy has been traced 17 times" in text
    assert "padded (float32[1], float32[2]" in text
    assert "fixed (" not in text
    assert warning.filename == __file__


def test_sixteen_traces_do_not_warn(kits, bridged):
    _, target = kits
    assert not warned(lambda: lengths(target, bridged(lambda x, y: x * y), 16))


def test_many_calls_of_one_trace_do_not_warn(kits, bridged):
    _, target = kits
    there, x = bridged(lambda x: x * 2), target.array(X)
    assert not warned(lambda: [there(x) for _ in range(40)])


def test_many_calls_without_traces_do_not_warn(kits, bridged):
    _, target = kits
    assert not warned(lambda: lengths(target, bridged(lambda x, y: x * y, jit=False), 20))


@pytest.mark.needs("one trace")
def test_static_value_that_varies_is_named(kits, bridged):
    _, target = kits
    there, x = bridged(lambda x, count: x, static_argnames="count"), target.array(X)
    (warning,) = warned(lambda: [there(x, count) for count in range(20)])
    assert "count (" in str(warning.message)
    assert "x (" not in str(warning.message)


@pytest.mark.needs("one trace")
def test_structure_that_varies_is_named(kits, bridged):
    _, target = kits
    there, x = bridged(lambda tree: tree[0]), target.array(X)
    (warning,) = warned(lambda: [there([x] * count) for count in range(1, 20)])
    assert "structure" in str(warning.message)


def test_each_function_counts_for_itself(kits, bridged):
    _, target = kits
    functions = [bridged(lambda x, y: x * y) for _ in range(3)]
    assert not warned(lambda: [lengths(target, there, 8) for there in functions])


@pytest.mark.needs("one trace")
def test_many_traces_are_an_error_where_warnings_are(kits, bridged):
    """As under pytest with `-W error`; the call after it works."""
    _, target = kits
    there = bridged(lambda x, y: x * y)
    with pytest.raises(UserWarning, match=r"traced 17 times"):
        lengths(target, there, 17)
    x = target.array(X)
    np.testing.assert_allclose(target.numpy(there(x, x)), X * X)
