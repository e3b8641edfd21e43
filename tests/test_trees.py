"""Arguments and results of any structure: each value and each gradient in its own place."""

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

from bridge import jax2torch

A = np.array([0.3, -1.2, 2.0], np.float32)
B = np.array([[1.1, -0.4, 0.7], [0.2, 0.5, -0.9]], np.float32)
COTANGENT_A = np.array([0.5, -2.0, 1.5], np.float32)
COTANGENT_B = np.array([[0.1, 3.0, -0.6], [2.5, -0.2, 0.8]], np.float32)


class Pair(NamedTuple):
    a: Any
    b: Any


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
    seen = []
    record = seen.append  # not looked into, so that runs that leave no trace are seen

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
    seen = []
    record = seen.append  # not looked into, so that runs that leave no trace are seen

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


def leaf(torch, values):
    return torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize("empty", [None, {}, ()], ids=repr)
def test_no_outputs_of_an_argument_that_requires_grad(into_torch, torch, empty):
    assert into_torch[1](lambda x: empty)(leaf(torch, A)) == empty


def test_structure_outside_of_transformations(into_torch, torch):
    """`backward` of a plain call goes another way than `torch.func`."""
    source, wrap = into_torch
    function = lambda xp, p: {"y": [xp.sin(p["a"]) * p["b"][1]], "x": Pair(p["a"], xp.exp(p["b"]))}
    there = wrap(lambda p: function(source.xp, p))

    gradients = []
    for call in (there, lambda p: function(torch, p)):
        a, b = leaf(torch, A), leaf(torch, B)
        out = call({"b": b, "a": a})
        weights = torch.tensor(COTANGENT_B)
        loss = (out["y"][0] * torch.tensor(COTANGENT_A)).sum() + (out["x"].b * weights).sum()
        gradients.append(torch.autograd.grad(loss, (a, b)))
    torch.testing.assert_close(*gradients)


def test_unused_input_gets_none(into_torch, torch):
    """As in torch: `None`, no zeros, and an error unless `allow_unused`."""
    source, wrap = into_torch
    x, unused = leaf(torch, A), leaf(torch, B)
    y = wrap(lambda x, unused: source.xp.sin(x))(x, unused)
    found, nothing = torch.autograd.grad(y.sum(), (x, unused), allow_unused=True)
    torch.testing.assert_close(found, torch.cos(x.detach()))
    assert nothing is None


def test_input_without_gradient_gets_none(into_torch, torch):
    x, fixed = leaf(torch, A), torch.tensor(A)
    into_torch[1](lambda x, fixed: x * fixed)(x, fixed).sum().backward()
    torch.testing.assert_close(x.grad, fixed)
    assert fixed.grad is None


def test_integer_outputs_do_not_require_grad(into_torch, torch):
    source, wrap = into_torch
    outputs = wrap(lambda x: (x * 2, source.xp.argmax(x), x > 0, x + 1j))(leaf(torch, A))
    assert [y.requires_grad for y in outputs] == [True, False, False, True]


def test_outputs_that_depend_on_no_wanted_input_do_not_require_grad(into_torch, torch):
    source, wrap = into_torch
    there = wrap(lambda x, fixed: (x * 2, source.array(B), fixed * 2, fixed * x))
    outputs = there(leaf(torch, A), torch.tensor(A))
    assert [y.requires_grad for y in outputs] == [True, False, False, True]


def test_integer_input_beside_one_that_requires_grad(into_torch, torch):
    source, wrap = into_torch
    x, index = leaf(torch, A), torch.tensor([2, 0, 0])
    y = wrap(lambda x, index: source.xp.sin(x[index]))(x, index)
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT_A))
    (wanted,) = torch.autograd.grad(torch.sin(x[index]), x, torch.tensor(COTANGENT_A))
    torch.testing.assert_close(found, wanted)


def test_same_tensor_twice_outside_of_transformations(into_torch, torch):
    x = leaf(torch, A)
    into_torch[1](lambda x, y: x * x * y)(x, x).sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)


# Results that are, or could be, the memory of something else.
SHARED = {
    "input": lambda xp, x, y, c: (x,),
    "inputs swapped": lambda xp, x, y, c: (y, x),
    "input twice": lambda xp, x, y, c: (x, x),
    "reshaped input": lambda xp, x, y, c: (x.reshape(1, -1), x[None], xp.real(x)),
    "duplicate": lambda xp, x, y, c: [xp.sin(x)] * 3,
    "constant": lambda xp, x, y, c: (c, c, x + c),
    "input and residual": lambda xp, x, y, c: (x, xp.exp(x), xp.exp(x) * y, y),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("options", [{}, {"jit": False}, {"residuals": "recompute"}], ids=str)
@pytest.mark.parametrize("function", SHARED.values(), ids=SHARED)
def test_results_have_memory_of_their_own(into_torch, torch, function, options, requires_grad):
    source, wrap = into_torch
    # Large and 64-byte aligned: what is lent without a copy.
    x, y = (torch.linspace(-1, end, 4096, requires_grad=requires_grad) for end in (2.0, 3.0))
    constant = source.array(np.linspace(0, 1, 4096, dtype=np.float32))
    there = wrap(lambda x, y: function(source.xp, x, y, constant), **options)
    first, second = there(x, y), there(x, y)
    addresses = [z.data_ptr() for z in (x, y, *first, *second)]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_argument_of_another_framework_is_not_changed_through_a_result(
    into_torch, torch, jit, requires_grad
):
    """An array of the source is handed on as it is, so an output could be that very array."""
    source, wrap = into_torch
    x = torch.tensor(A, requires_grad=requires_grad)
    for given in (source.array(B), B.copy()):
        result, _ = wrap(lambda given, x: (given, x * 2), jit=jit)(given, x)
        result.detach().fill_(9.0)
        np.testing.assert_array_equal(np.asarray(given), B)


@pytest.mark.parametrize("jit", [True, False])
def test_constant_is_not_changed_through_a_result(into_torch, torch, jit):
    source, wrap = into_torch
    constant = source.array(B)
    there = wrap(lambda x: (constant, x), jit=jit)
    x = torch.tensor(A)
    for result in there(x):
        result.fill_(9.0)
    torch.testing.assert_close(there(x), (torch.tensor(B), torch.tensor(A)))
    np.testing.assert_array_equal(source.numpy(constant), B)


def test_input_that_is_an_output_has_its_gradient(into_torch, torch):
    x = leaf(torch, A)
    same, _ = into_torch[1](lambda x: (x, x * 2))(x)
    (found,) = torch.autograd.grad(same, x, torch.tensor(COTANGENT_A))
    np.testing.assert_array_equal(found.numpy(), COTANGENT_A)


def test_node_of_torch_is_an_argument_and_a_result(into_torch, torch):
    pytree = pytest.importorskip("torch.utils._pytree")

    class Node:
        def __init__(self, a, b, power):
            self.a, self.b, self.power = a, b, power

    pytree.register_pytree_node(
        Node, lambda n: ([n.a, n.b], n.power), lambda xs, power: Node(*xs, power)
    )
    source, wrap = into_torch
    a, b = leaf(torch, A), leaf(torch, A * 2)
    found = wrap(lambda n: Node(source.xp.sin(n.b), n.a**n.power, n.power + 1))(Node(a, b, 3))
    assert isinstance(found, Node)
    assert found.power == 4
    torch.testing.assert_close((found.a, found.b), (torch.sin(b), a**3))
    gradients = torch.autograd.grad((found.a + found.b).sum(), (a, b))
    torch.testing.assert_close(gradients, (3 * a.detach() ** 2, torch.cos(b.detach())))


def test_node_of_jax_is_an_argument_and_a_result(jax, torch):
    class Node:
        def __init__(self, a, b, power):
            self.a, self.b, self.power = a, b, power

    jax.tree_util.register_pytree_node(
        Node, lambda n: ((n.a, n.b), n.power), lambda power, xs: Node(*xs, power)
    )
    a, b = leaf(torch, A), leaf(torch, A * 2)
    there = jax2torch(lambda n: Node(jax.numpy.sin(n.b), n.a**n.power, n.power + 1))
    found = there(Node(a, b, 3))
    assert isinstance(found, Node)
    assert found.power == 4
    torch.testing.assert_close((found.a, found.b), (torch.sin(b), a**3))
    gradients = torch.autograd.grad((found.a + found.b).sum(), (a, b))
    torch.testing.assert_close(gradients, (3 * a.detach() ** 2, torch.cos(b.detach())))


def test_metadata_of_a_node_of_jax_is_part_of_the_key(jax, torch):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Layer:
        weight: Any
        power: int = dataclasses.field(metadata={"static": True})

    there = jax2torch(lambda layer: layer.weight**layer.power)
    x = torch.tensor(A)
    for power in (2, 3, 2):
        torch.testing.assert_close(there(Layer(x, power)), x**power)


def test_equinox_module_is_an_argument(jax, torch):
    equinox = pytest.importorskip("equinox")

    class Affine(equinox.Module):
        weight: Any
        bias: Any
        activation: Any = equinox.field(static=True)

        def __call__(self, x):
            return self.activation(self.weight @ x + self.bias)

    weight, bias, x = leaf(torch, B), leaf(torch, B[:, 1]), leaf(torch, A)
    found = jax2torch(lambda m, x: m(x))(Affine(weight, bias, jax.numpy.tanh), x)
    wanted = torch.tanh(weight @ x + bias)
    cotangent = torch.tensor([0.7, -1.3])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, (weight, bias, x), cotangent),
        torch.autograd.grad(wanted, (weight, bias, x), cotangent),
    )


def test_equinox_module_is_a_result(jax, torch):
    equinox = pytest.importorskip("equinox")

    class Scaled(equinox.Module):
        weight: Any
        name: str = equinox.field(static=True)

    x = leaf(torch, A)
    found = jax2torch(lambda x: Scaled(jax.numpy.sin(x), "sine"))(x)
    assert isinstance(found, Scaled)
    assert found.name == "sine"
    torch.testing.assert_close(found.weight, torch.sin(x))
    torch.testing.assert_close(torch.autograd.grad(found.weight.sum(), x)[0], torch.cos(x.detach()))


def test_equinox_layer_of_jax_arrays_is_an_argument(jax, torch):
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    x = leaf(torch, A)
    found = jax2torch(lambda m, x: m(x))(model, x)
    np.testing.assert_allclose(found.detach().numpy(), model(A), rtol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    wanted = jax.grad(lambda x: model(x).sum())(A)
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=1e-5)


def test_flax_struct_is_an_argument_and_a_result(jax, torch):
    struct = pytest.importorskip("flax.struct")

    @struct.dataclass
    class State:
        a: Any
        step: int = struct.field(pytree_node=False)

    x = leaf(torch, A)
    found = jax2torch(lambda s: s.replace(a=jax.numpy.sin(s.a) * s.step, step=s.step + 1))(
        State(x, 4)
    )
    assert isinstance(found, State)
    assert found.step == 5
    torch.testing.assert_close(found.a, 4 * torch.sin(x))
    (gradient,) = torch.autograd.grad(found.a.sum(), x)
    torch.testing.assert_close(gradient, 4 * torch.cos(x.detach()))


def test_jax_partial_is_an_argument(jax, torch):
    """Its arrays are leaves, unlike those in a closure."""
    x, weight = torch.tensor(A), leaf(torch, A * 2)
    partial = jax.tree_util.Partial(lambda w, x: w * jax.numpy.sin(x), weight)
    found = jax2torch(lambda call, x: call(x))(partial, x)
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    torch.testing.assert_close(gradient, torch.sin(x))


def test_result_of_torch_is_an_argument(into_torch, torch):
    """`torch.max` returns a structure sequence."""
    x = leaf(torch, B)
    extreme = torch.max(x, 1)
    found = into_torch[1](lambda r: r.values * 2)(extreme)
    torch.testing.assert_close(found, extreme.values * 2)


def test_new_class_of_an_old_name_is_a_class_of_its_own(into_torch, torch):
    there = into_torch[1](lambda tree: tree)
    x = torch.tensor(A)
    for width in range(1, 4):
        kind = dataclasses.make_dataclass("Made", [f"field{i}" for i in range(width)])
        found = there(kind(*[x] * width))
        assert type(found) is kind
        torch.testing.assert_close(getattr(found, f"field{width - 1}"), x)
