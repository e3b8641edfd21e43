"""Arrays in what is no known container: refused by `to_torch`, `to_jax` and `to_mlx`."""

import collections
import functools
import types

import numpy as np
import pytest

import bridge
from bridge import ArgumentError
from tests import kits

CONVERT = {"torch": bridge.to_torch, "jax": bridge.to_jax, "mlx": bridge.to_mlx}
PAIRS = [("torch", "jax"), ("torch", "mlx"), ("jax", "torch"), ("mlx", "torch"), ("mlx", "jax")]


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


# Sets take what can be hashed, arrays of JAX cannot.
HOLDERS = {
    "set": (lambda x: {x}, "Pass a list"),
    "frozenset of tuples": (lambda x: frozenset({(1, x)}), "Pass a list"),
    "values of a dict": (lambda x: {"a": x}.values(), "Pass a list"),
    "UserDict": (lambda x: collections.UserDict(a=x), "Pass a dict"),
    "ChainMap": (lambda x: collections.ChainMap({}, {"a": [x]}), "Pass a dict"),
    "mappingproxy": (lambda x: types.MappingProxyType({"a": x}), "Pass a dict"),
    "attribute": (lambda x: types.SimpleNamespace(a=x), "dataclass"),
    "deeper": (lambda x: types.SimpleNamespace(a=[{"b": x}]), "dataclass"),
    "slot": (Slotted, "dataclass"),
    "partial": (lambda x: functools.partial(max, x), None),
}


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda name: name)
@pytest.mark.parametrize(("make", "advice"), HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a tree"])
def test_what_holds_arrays_is_refused(source, target, make, advice, alone):
    x = pytest.importorskip({"torch": "torch", "jax": "jax.numpy", "mlx": "mlx.core"}[source])
    x = x.ones(2)
    try:
        holder = make(x)
    except TypeError:
        pytest.skip("this array cannot be hashed")
    kits.kit(target)
    tree = holder if alone else {"a": [1, holder]}
    with pytest.raises(ArgumentError, match=advice or "to_"):
        CONVERT[target](tree)


@pytest.mark.parametrize("target", CONVERT)
@pytest.mark.parametrize(
    "make", [lambda x: iter([x]), lambda x: map(abs, [x]), lambda x: (y for y in [x])]
)
def test_iterators_are_refused(target, make):
    kits.kit(target)
    with pytest.raises(ArgumentError, match=r"read once\. Pass a list"):
        CONVERT[target](make(np.ones(2, "float32")))


@pytest.mark.parametrize("target", CONVERT)
def test_other_things_stay_what_they_are(target):
    kits.kit(target)
    things = [{"a"}, frozenset({1}), types.SimpleNamespace(a=[1]), {"a": None}.keys(), len, 1.5]
    for thing, result in zip(things, CONVERT[target](things), strict=True):
        assert result is thing
