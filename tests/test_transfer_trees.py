"""Trees that are converted: arrays in them cross, and all else stays as it is."""

import collections
import dataclasses
import enum

import numpy as np
import pytest

from bridge import to_jax, to_torch

X = np.array([[0.3, -1.2, 2.0], [1.4, -0.6, 0.9]], np.float32)


class Thing:
    def __repr__(self):
        return "thing"


THING = Thing()


class Mode(enum.Enum):
    ON = 1


Pair = collections.namedtuple("Pair", ["a", "b"])


@dataclasses.dataclass(frozen=True)
class Named:
    a: object
    name: str


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_trees(jax, torch, convert):
    kind = torch.Tensor if convert is to_torch else jax.Array
    arrays = [X, torch.tensor(X), jax.numpy.asarray(X)]
    given = {"z": Pair(arrays[0], [arrays[1]]), "a": Named(arrays[2], "n"), "n": (None, ())}
    found = convert(given)
    assert list(found) == ["z", "a", "n"]
    assert (type(found["z"]), type(found["a"])) == (Pair, Named)
    assert (found["a"].name, found["n"]) == ("n", (None, ()))
    for x in (found["z"].a, found["z"].b[0], found["a"].a):
        assert isinstance(x, kind)
        np.testing.assert_array_equal(np.asarray(x), X)


@pytest.mark.parametrize("convert", [to_torch, to_jax])
@pytest.mark.parametrize(
    "leaf", [None, True, 1, 2.5, 1j, "text", b"bytes", Mode.ON, THING, {1, 2}], ids=str
)
def test_other_leaves_are_themselves(jax, torch, convert, leaf):
    assert convert(leaf) is leaf
    assert convert([leaf, {"x": leaf}], copy=True) == [leaf, {"x": leaf}]


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_given_tree_is_not_changed(jax, torch, convert):
    x = [np.ones(3, np.float32)]
    convert({"x": x})
    assert isinstance(x[0], np.ndarray)


def test_equinox_module(jax, torch):
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    found = to_torch(model)
    assert type(found) is type(model)
    assert isinstance(found.weight, torch.Tensor)
    np.testing.assert_array_equal(found.weight.numpy(), np.asarray(model.weight))


def test_state_of_a_torch_model(jax, torch):
    model = torch.nn.Linear(3, 2)
    found = to_jax({name: x.detach() for name, x in model.state_dict().items()})
    np.testing.assert_array_equal(np.asarray(found["weight"]), model.weight.detach().numpy())
