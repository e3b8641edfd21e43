"""Containers of results, used in compiled code and handed out of it."""

import collections
import dataclasses
import functools
import importlib

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import X, compiled  # noqa: E402

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@dataclasses.dataclass
class Result:
    x: object

    def __post_init__(self):
        self.other = self.x


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenResult:
    x: object


class Registered(dict):
    """A container that torch knows, as the outputs of many libraries are."""


torch.utils._pytree.register_pytree_node(
    Registered,
    lambda node: (list(node.values()), list(node)),
    lambda children, names: Registered(zip(names, children, strict=True)),
)
Pair = collections.namedtuple("Pair", "first second")


def sine_and_sum(xp, x):
    return xp.sin(x), x.sum()


RESULTS = {
    "namedtuple": lambda xp, x: Pair(*sine_and_sum(xp, x)),
    "frozen": lambda xp, x: FrozenResult(sine_and_sum(xp, x)),
    "dataclass": lambda xp, x: [Result(xp.sin(x)), Result(x.sum())],
    "registered": lambda xp, x: Registered(zip("ab", sine_and_sum(xp, x), strict=True)),
    "ordered": lambda xp, x: collections.OrderedDict(zip("ba", sine_and_sum(xp, x), strict=True)),
    "default": lambda xp, x: collections.defaultdict(list, {"z": sine_and_sum(xp, x)}),
    "deque": lambda xp, x: collections.deque(sine_and_sum(xp, x)),
    "nothing": lambda xp, x: (),
    "None": lambda xp, x: None,
    "None in tree": lambda xp, x: {"a": [None, sine_and_sum(xp, x)], "b": (None, [])},
}


def same(found, expected):
    assert type(found) is type(expected)
    if dataclasses.is_dataclass(found):
        return same(list(vars_of(found)), list(vars_of(expected)))
    if isinstance(found, torch.Tensor):
        return torch.testing.assert_close(found, expected)
    if isinstance(found, dict):
        return same(list(found.items()), list(expected.items()))
    if isinstance(found, (tuple, list, collections.deque)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
        return None
    assert found == expected
    return None


def vars_of(node):
    names = [field.name for field in dataclasses.fields(node)]
    return [getattr(node, name) for name in names] + [getattr(node, "other", None)]


@pytest.mark.parametrize("function", RESULTS.values(), ids=RESULTS)
def test_results_that_leave_compiled_code(into_torch, function):
    source, wrap = into_torch
    f = wrap(functools.partial(function, source.xp))
    same(compiled(lambda x: f(x))(X), function(torch, X))


def test_results_of_equinox_in_and_out(into_torch):
    source, wrap = into_torch
    if source.name != "jax":
        pytest.skip("Equinox is a library of JAX")
    equinox, jax = pytest.importorskip("equinox"), importlib.import_module("jax")
    linear = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    weights = importlib.import_module("bridge").to_torch(linear)
    f = wrap(lambda m, x: equinox.tree_at(lambda m: m.bias, m, m(x)))
    expected = X[0] @ weights.weight.T + weights.bias
    found = compiled(lambda m, x: f(m, x))(weights, X[0])
    assert type(found) is equinox.nn.Linear
    assert (found.in_features, found.out_features, found.use_bias) == (3, 2, True)
    torch.testing.assert_close(found.bias, expected)
