"""Arguments and results of any structure: each value and each gradient in its own place."""

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.records import recorder
from tests.trees import COTANGENT_A, COTANGENT_B, A, B, Pair


@dataclasses.dataclass
class Plain:
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any


@dataclasses.dataclass
class Derived:
    """A field that the constructor does not take."""

    a: Any
    b: Any
    rows: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.rows = self.b.shape[0]


@dataclasses.dataclass
class Labelled:
    a: Any
    label: str
    b: Any


@dataclasses.dataclass
class Checked:
    """Looks at values when it is made, which neither tracers nor placeholders survive."""

    a: Any
    b: Any

    def __post_init__(self):
        if float(abs(self.a).max()) > 100:
            raise ValueError(self.a)


# How a structure is made of two arrays, and how it is read.
RESULTS = {
    "dict": (lambda a, b: {"b": b, "a": a}, lambda t: (t["a"], t["b"])),
    "list": (lambda a, b: [a, b], lambda t: (t[0], t[1])),
    "tuple": (lambda a, b: (a, b), lambda t: (t[0], t[1])),
    "nested": (lambda a, b: ((), [{"x": (b,)}], ((a,),)), lambda t: (t[2][0][0], t[1][0]["x"][0])),
    "integer keys": (lambda a, b: {7: a, 3: b}, lambda t: (t[7], t[3])),
    "namedtuple": (Pair, lambda t: (t.a, t.b)),
    "dataclass": (Plain, lambda t: (t.a, t.b)),
    "frozen dataclass with slots": (Frozen, lambda t: (t.a, t.b)),
    "OrderedDict": (
        lambda a, b: collections.OrderedDict([("z", a), ("b", b)]),
        lambda t: (t["z"], t["b"]),
    ),
    "defaultdict": (
        lambda a, b: collections.defaultdict(list, z=a, b=b),
        lambda t: (t["z"], t["b"]),
    ),
    "deque": (lambda a, b: collections.deque([a, b]), lambda t: (t[0], t[1])),
    "None": (lambda a, b: {"a": a, "n": None, "b": [None, b]}, lambda t: (t["a"], t["b"][1])),
}
ARGUMENTS = {
    **RESULTS,
    "dataclass with a derived field": (Derived, lambda t: (t.a * t.rows, t.b)),
    "dataclass with a string": (
        lambda a, b: Labelled(a, "four", b),
        lambda t: (t.a * len(t.label), t.b),
    ),
}


def cases(table):
    return pytest.mark.parametrize(("build", "take"), table.values(), ids=table)


def assert_all_close(kit, found, wanted):
    assert len(found) == len(wanted)
    for x, y in zip(found, wanted, strict=True):
        np.testing.assert_allclose(kit.numpy(x), kit.numpy(y), rtol=1e-5, atol=1e-6)


@cases(ARGUMENTS)
def test_argument(kits, bridged, build, take):
    source, target = kits

    def mixed(xp, tree):
        a, b = take(tree)
        return (xp.sin(a) * b).sum() * xp.exp(a)

    there = bridged(lambda tree: mixed(source.xp, tree))
    a, b = target.array(A), target.array(B)
    native = lambda a, b: mixed(target.xp, build(a, b))
    crossing = lambda a, b: there(build(a, b))

    assert_all_close(target, [crossing(a, b)], [native(a, b)])
    cotangent = target.array(COTANGENT_A)
    assert_all_close(
        target, target.vjp(crossing, (a, b), cotangent), target.vjp(native, (a, b), cotangent)
    )


@cases(RESULTS)
def test_result(kits, bridged, build, take):
    source, target = kits

    def make(xp, a, b):
        return build(xp.sin(a) * b[0], xp.exp(b) * a)

    there = bridged(lambda a, b: make(source.xp, a, b))
    a, b = target.array(A), target.array(B)
    found, wanted = there(a, b), make(target.xp, a, b)

    assert type(found) is type(wanted)
    assert_all_close(target, take(found), take(wanted))

    def weighted(tree):
        first, second = take(tree)
        return first * target.array(COTANGENT_A) + (second * target.array(COTANGENT_B)).sum()

    cotangent = target.array(COTANGENT_A)
    crossing = lambda a, b: weighted(there(a, b))
    native = lambda a, b: weighted(make(target.xp, a, b))
    assert_all_close(
        target, target.vjp(crossing, (a, b), cotangent), target.vjp(native, (a, b), cotangent)
    )


@cases(ARGUMENTS)
def test_function_sees_the_class_that_was_passed(kits, bridged, build, take):
    _, target = kits
    seen, record = recorder()

    def look(tree):
        record(type(tree))
        return take(tree)[0]

    tree = build(target.array(A), target.array(B))
    bridged(look)(tree)
    assert set(seen) == {type(tree)}


def test_dataclass_that_checks_values_is_rebuilt_without_its_constructor(kits, bridged):
    source, target = kits
    there = bridged(lambda c: source.xp.sin(c.a) * c.b)
    a, b = target.array(A), target.array(B)
    assert_all_close(target, [there(Checked(a, b))], [target.xp.sin(a) * b])


def test_dataclass_that_derives_a_field_is_a_result(kits, bridged):
    source, target = kits
    there = bridged(lambda a, b: Derived(source.xp.sin(a), b * 2))
    with target.wide():
        found = there(target.array(A), target.array(B))
    assert isinstance(found, Derived)
    assert_all_close(target, [found.a], [target.xp.sin(target.array(A))])


def test_attribute_beside_the_fields_of_a_dataclass_survives(kits, bridged):
    """`__post_init__` often sets what is no field, and is not run again."""

    @dataclasses.dataclass
    class Scaled:
        a: Any

        def __post_init__(self):
            self.scale = 3.0

    source, target = kits
    a = target.array(A)
    found = bridged(lambda s: source.xp.sin(s.a) * s.scale)(Scaled(a))
    assert_all_close(target, [found], [target.xp.sin(a) * 3.0])


def test_default_of_a_defaultdict_survives(kits, bridged):
    _, target = kits
    given = collections.defaultdict(lambda: "default", a=target.array(A))
    seen, record = recorder()

    def look(tree):
        record(tree["missing"])
        return collections.defaultdict(dict, out=tree["a"] * 2)

    found = bridged(look)(given)
    assert set(seen) == {"default"}
    assert found["missing"] == {}


def test_keys_of_a_result_keep_their_order(kits, bridged):
    _, target = kits
    there = bridged(lambda x: {"z": x, "b": {"y": x * 2, "a": x * 3}, "a": x * 4})
    found = there(target.array(A))
    assert list(found) == ["z", "b", "a"]
    assert list(found["b"]) == ["y", "a"]


def test_order_of_the_keys_of_an_argument_does_not_depend_on_an_earlier_call(kits, bridged):
    _, target = kits
    first, second = bridged(lambda d: list(d.values())), bridged(lambda d: list(d.values()))
    a, b = target.array(A), target.array(A * 2)
    second({"a": a, "b": b})  # must not settle the order for the next
    assert_all_close(target, second({"b": b, "a": a}), first({"b": b, "a": a}))


def test_keyword_arguments(kits, bridged):
    source, target = kits
    function = lambda xp, x, *, weight, bias: xp.sin(x) * weight + bias
    there = bridged(lambda x, *, weight, bias: function(source.xp, x, weight=weight, bias=bias))
    xs = tuple(map(target.array, (A, A * 2, A - 1)))
    native = lambda x, w, b: function(target.xp, x, weight=w, bias=b)
    crossing = lambda x, w, b: there(x, bias=b, weight=w)

    assert_all_close(target, [crossing(*xs)], [native(*xs)])
    cotangent = target.array(COTANGENT_A)
    assert_all_close(target, target.vjp(crossing, xs, cotangent), target.vjp(native, xs, cotangent))


def test_keyword_argument_with_a_default(kits, bridged):
    _, target = kits
    there = bridged(lambda x, scale=3.0: x * scale)
    a = target.array(A)
    assert_all_close(target, [there(a)], [a * 3.0])
    assert_all_close(target, [there(a, scale=a)], [a * a])


def test_variadic_arguments(kits, bridged):
    _, target = kits
    there = bridged(lambda *xs, **named: xs[0] * xs[1] + named["u"] * named["v"])
    a, b, c, d = map(target.array, (A, A - 1, A * 2, A + 3))
    assert_all_close(target, [there(a, b, v=d, u=c)], [a * b + c * d])


def test_same_array_twice(kits, bridged):
    source, target = kits
    function = lambda xp, x, y: xp.sin(x) * y + x
    there = bridged(lambda x, y: function(source.xp, x, y))
    a, cotangent = target.array(A), target.array(COTANGENT_A)
    found = target.vjp(lambda x: there(x, x), (a,), cotangent)
    wanted = target.vjp(lambda x: function(target.xp, x, x), (a,), cotangent)
    assert_all_close(target, found, wanted)


def test_unused_output(kits, bridged):
    source, target = kits
    there = bridged(lambda x: (source.xp.sin(x), source.xp.exp(x), source.xp.cos(x)))
    a, cotangent = target.array(A), target.array(COTANGENT_A)
    found = target.vjp(lambda x: there(x)[1], (a,), cotangent)
    wanted = target.vjp(target.xp.exp, (a,), cotangent)
    assert_all_close(target, found, wanted)


def test_constant_output_has_no_gradient_and_does_not_disturb(kits, bridged):
    source, target = kits
    there = bridged(lambda x: (source.array(B), source.xp.sin(x), 3.5))
    a, cotangent = target.array(A), target.array(COTANGENT_A)
    constant, _, number = there(a)
    np.testing.assert_array_equal(target.numpy(constant), B)
    assert target.numpy(number) == 3.5
    found = target.vjp(lambda x: there(x)[1] + there(x)[0][1], (a,), cotangent)
    assert_all_close(target, found, target.vjp(target.xp.sin, (a,), cotangent))


def test_mixed_dtypes(kits, bridged):
    source, target = kits

    def several(xp, x):
        return xp.sin(x), xp.argmax(x), x > 0, xp.exp(x * 1j), xp.cos(x)

    with target.wide():
        there = bridged(lambda x: several(source.xp, x))
        a, cotangent = target.array(A), target.array(COTANGENT_A)
        found, wanted = there(a), several(target.xp, a)
        assert_all_close(target, found, wanted)
        kinds = [target.numpy(y).dtype.kind for y in found]
        assert "".join(kinds).replace("u", "i") == "fibcf"

        both = lambda outputs: outputs[0] * 2 + outputs[4]
        found = target.vjp(lambda x: both(there(x)), (a,), cotangent)
        wanted = target.vjp(lambda x: both(several(target.xp, x)), (a,), cotangent)
        assert_all_close(target, found, wanted)


@pytest.mark.parametrize("empty", [None, {}, (), [], {"a": None, "b": [()]}], ids=repr)
def test_no_outputs(kits, bridged, empty):
    _, target = kits
    there = bridged(lambda x: empty)
    assert there(target.array(A)) == empty
    assert type(there(target.array(A))) is type(empty)


def test_no_arguments(kits, bridged):
    source, target = kits
    found = bridged(lambda: source.array(A) * 2)()
    np.testing.assert_array_equal(target.numpy(found), A * 2)


def test_new_class_of_an_old_name_is_a_class_of_its_own(into_torch, torch):
    there = into_torch[1](lambda tree: tree)
    x = torch.tensor(A)
    for width in range(1, 4):
        kind = dataclasses.make_dataclass("Made", [f"field{i}" for i in range(width)])
        found = there(kind(*[x] * width))
        assert type(found) is kind
        torch.testing.assert_close(getattr(found, f"field{width - 1}"), x)
