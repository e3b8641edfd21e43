"""Static arguments: by themselves, by name and by position."""

import dataclasses
import enum

import numpy as np
import pytest

import bridge
from tests.conftest import counted

X = np.array([0.3, -1.2, 2.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    copies: int


class Mode(enum.Enum):
    SINE = "sin"
    COSINE = "cos"


class Level(enum.IntEnum):
    ONE = 1
    TWO = 2


STATIC = {
    "bool": (True, False),
    "str": ("sin", "cos"),
    "None": (None, "cos"),
    "enum": (Mode.SINE, Mode.COSINE),
    "integer enum": (Level.ONE, Level.TWO),
    "function": (abs, repr),
    "class": (int, str),
    "bytes": (b"a", b"b"),
    "range": (range(3), range(4)),
    "frozenset": (frozenset("ab"), frozenset("a")),
    "ellipsis": (..., None),
}


@pytest.mark.parametrize(("one", "other"), STATIC.values(), ids=STATIC)
def test_value_is_static_by_itself(kits, bridged, one, other):
    source, target = kits
    fn, runs = counted(lambda x, value: x * 2 if value == one else x * 3)
    there = bridged(fn)
    for _ in range(2):
        once = [*runs]
        for value, factor in [(one, 2), (other, 3)]:
            found = target.numpy(there(target.array(X), value))
            np.testing.assert_allclose(found, X * factor, rtol=1e-6)
    assert list(dict.fromkeys(args[1] for args, _ in runs)) == [one, other]
    assert len(runs) == len(once) or "one trace" in source.lacks


DISTINCT = {
    "one": (1, 1.0, True, 1 + 0j),
    "zero": (0.0, -0.0, 0, False),
    "complex zero": (0j, complex(0, -0.0), complex(-0.0, 0)),
    "tuples": ((1,), (True,), (1.0,), [1][0]),
    "nested tuples": (((1,), 2), ((True,), 2), ((1,), 2.0)),
    "frozensets": (frozenset([1]), frozenset([True])),
    "integer enum": (Level.ONE, 1),
    "dataclasses": (Config(1), Config(1.0), Config(True)),
}


@pytest.mark.parametrize("values", DISTINCT.values(), ids=DISTINCT)
def test_equal_static_values_of_other_type_are_other_keys(kits, bridged, values):
    source, target = kits
    fn, runs = counted(lambda x, n: x)
    there = bridged(fn, static_argnames="n")
    for _ in range(2):
        once = [*runs]
        for value in values:
            there(target.array(X), value)
    assert list(dict.fromkeys(repr(args[1]) for args, _ in runs)) == list(map(repr, values))
    assert len(runs) == len(once) or "one trace" in source.lacks


@pytest.mark.parametrize(
    "options",
    [
        {"static_argnums": 1},
        {"static_argnums": (1,)},
        {"static_argnums": [1]},
        {"static_argnums": -1},
        {"static_argnames": "n"},
        {"static_argnames": ("n",)},
        {"static_argnames": ["n"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
def test_static_argument(kits, bridged, options, by_name):
    """The function sees the value itself, however it is named and passed."""
    _, target = kits
    there = bridged(lambda x, n: sum([x] * n[0]), **options)
    x, n = target.array(X), (3, "three")
    found = there(x, n=n) if by_name else there(x, n)
    np.testing.assert_allclose(target.numpy(found), X * 3, rtol=1e-6)


def test_static_argument_before_arrays(kits, bridged):
    _, target = kits
    there = bridged(lambda n, x, m, y: sum([x] * n) - sum([y] * m), static_argnums=(0, 2))
    found = there(2, target.array(X), 3, target.array(X + 1))
    np.testing.assert_allclose(target.numpy(found), 2 * X - 3 * (X + 1), rtol=1e-5)


def test_static_keyword_only_argument_and_default(kits, bridged):
    _, target = kits
    there = bridged(lambda x, *, n=2: sum([x] * n), static_argnames="n")
    np.testing.assert_allclose(target.numpy(there(target.array(X))), X * 2, rtol=1e-6)
    np.testing.assert_allclose(target.numpy(there(target.array(X), n=4)), X * 4, rtol=1e-6)


def test_static_number_of_a_variadic_function(kits, bridged):
    _, target = kits
    there = bridged(lambda *args: sum([args[0]] * args[-1]), static_argnums=-1)
    np.testing.assert_allclose(target.numpy(there(target.array(X), 3)), X * 3, rtol=1e-6)


def test_static_name_of_variadic_keywords(kits, bridged):
    _, target = kits
    there = bridged(lambda x, **named: sum([x] * named["n"]), static_argnames="n")
    np.testing.assert_allclose(target.numpy(there(target.array(X), n=3)), X * 3, rtol=1e-6)


def test_static_dataclass_is_whole(kits, bridged):
    """Named static, a container is a value."""
    _, target = kits
    there = bridged(lambda x, config: sum([x] * config.copies), static_argnames="config")
    for copies in (2, 3):
        found = target.numpy(there(target.array(X), Config(copies)))
        np.testing.assert_allclose(found, X * copies, rtol=1e-6)


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {1, 2}, bytearray(b"a")], ids=repr)
def test_static_value_that_cannot_be_hashed(kits, bridged, value):
    _, target = kits
    there = bridged(lambda x, n: x, static_argnames="n")
    with pytest.raises(bridge.ArgumentError, match=r"argument n of .*hash"):
        there(target.array(X), value)


def test_value_that_is_no_array_and_cannot_be_hashed(kits, bridged):
    _, target = kits
    with pytest.raises(bridge.ArgumentError, match=r"argument n of .* set.*cannot be hashed"):
        bridged(lambda x, n: x)(target.array(X), {1, 2})


@pytest.mark.parametrize("options", [{"static_argnums": 1}, {"static_argnames": "n"}], ids=str)
def test_array_cannot_be_static(kits, bridged, options):
    _, target = kits
    there = bridged(lambda x, n: x, **options)
    with pytest.raises(bridge.ArgumentError, match=r"argument n of "):
        there(target.array(X), target.array(X))


def test_array_in_a_static_tuple(kits, bridged):
    _, target = kits
    there = bridged(lambda x, n: x, static_argnames="n")
    with pytest.raises(bridge.ArgumentError, match=r"argument n of "):
        there(target.array(X), (target.array(X), 2))


WRONG = {
    "unknown name": ({"static_argnames": "missing"}, r"static_argnames.*missing"),
    "too large": ({"static_argnums": 2}, r"static_argnums.*2.*\['x', 'n'\]"),
    "too small": ({"static_argnums": -3}, r"static_argnums.*-3.*\['x', 'n'\]"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_static_argument_that_does_not_exist(kits, bridged, options, text):
    with pytest.raises(bridge.OptionError, match=text):
        bridged(lambda x, n: x, **options)
