"""Arguments that are no arrays of the caller: numbers, static values, arrays of others."""

import dataclasses
import enum
import functools

import numpy as np
import pytest

import bridge
from bridge import _registry, jax2torch

X = np.array([0.3, -1.2, 2.0], np.float32)
COTANGENT = np.array([0.5, -2.0, 1.5], np.float32)


@dataclasses.dataclass(frozen=True)
class Config:
    copies: int


def counted(fn):
    """`fn`, and the list of the arguments it was run with, also in runs that leave no trace."""
    runs = []
    record = runs.append  # all that is captured; it is not looked into

    @functools.wraps(fn)
    def counting(*args, **kwargs):
        record((args, kwargs))
        return fn(*args, **kwargs)

    return counting, runs


class Mode(enum.Enum):
    SINE = "sin"
    COSINE = "cos"


class Level(enum.IntEnum):
    ONE = 1
    TWO = 2


# Arrays of others.


def test_numpy_array_takes_part_in_values_and_gradients(kits, bridged):
    source, target = kits
    there = bridged(lambda x, w: source.xp.sin(x) * w)
    x, weight = target.array(X), X * 3 + 1
    native = lambda x: target.xp.sin(x) * target.array(weight)
    np.testing.assert_allclose(target.numpy(there(x, weight)), target.numpy(native(x)), rtol=1e-6)
    cotangent = target.array(COTANGENT)
    (found,) = target.vjp(lambda x: there(x, weight), (x,), cotangent)
    (wanted,) = target.vjp(native, (x,), cotangent)
    np.testing.assert_allclose(target.numpy(found), target.numpy(wanted), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"jit": False}, {"residuals": "recompute"}], ids=str)
def test_numpy_array_changed_before_backward_does_not_change_the_gradient(
    into_torch, torch, options
):
    x, weight = torch.tensor(X, requires_grad=True), X.copy()
    y = into_torch[1](lambda x, w: x * w * x, **options)(x, weight)
    weight[:] = 1e6
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT))
    torch.testing.assert_close(found, 2 * x.detach() * torch.tensor(X) * torch.tensor(COTANGENT))


@pytest.mark.parametrize(
    "layout",
    {
        "reversed": lambda: np.arange(6, dtype=np.float32)[::-1],
        "strided": lambda: np.arange(12, dtype=np.float32)[::2],
        "transposed": lambda: np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "broadcast": lambda: np.broadcast_to(np.float32(3), (4,)),
        "read-only": lambda: np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32),
        "big-endian": lambda: np.arange(6).astype(">f4"),
        "0-d": lambda: np.array(2.5, np.float32),
        "empty": lambda: np.zeros((0, 3), np.float32),
    }.items(),
    ids=lambda item: item[0],
)
def test_layout_of_a_numpy_array(kits, bridged, layout):
    _, target = kits
    given = layout[1]()
    found = target.numpy(bridged(lambda w: w * 2)(given))
    np.testing.assert_array_equal(found, np.asarray(given, np.float32) * 2)


FOREIGN = {
    "object": np.array([object()]),
    "str": np.array(["a", "b"]),
    "datetime": np.array(["2020-01-01"], "datetime64[D]"),
    "structured": np.zeros(2, [("a", np.float32), ("b", np.int32)]),
}


@pytest.mark.parametrize("given", FOREIGN.values(), ids=FOREIGN)
def test_numpy_array_of_a_dtype_without_counterpart(kits, bridged, given):
    _, target = kits
    with pytest.raises(bridge.ArgumentError, match=r"argument w of .*dtype"):
        bridged(lambda x, w: x)(target.array(X), given)


@pytest.mark.needs("one trace")
def test_numpy_array_does_not_retrace_when_it_changes(kits, bridged):
    _, target = kits
    fn, runs = counted(lambda x, w: x * w)
    there = bridged(fn)
    x = target.array(X)
    once = None
    for scale in (1, 2, 3):
        found = target.numpy(there(x, X * scale))
        np.testing.assert_allclose(found, X * X * scale, rtol=1e-6)
        once = once or len(runs)
    assert len(runs) == once


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16])
def test_numpy_scalar_is_a_number(into_torch, torch, kind):
    """It gives way to the dtype of arrays, and its value does not retrace where it is traced."""
    traced = _registry.source(into_torch[0].name).traces_scalars
    fn, runs = counted(lambda x, n: x * n)
    there = into_torch[1](fn)
    for number in (kind(2), kind(5)):
        found = there(torch.tensor(X), number)
        torch.testing.assert_close(found, torch.tensor(X) * int(number))
    assert len(runs) == 1 or not traced


def test_numpy_bool_is_static(into_torch, torch):
    there = into_torch[1](lambda x, flip: -x if flip else x)
    torch.testing.assert_close(there(torch.tensor(X), np.bool_(True)), -torch.tensor(X))
    torch.testing.assert_close(there(torch.tensor(X), np.bool_(False)), torch.tensor(X))


def test_array_of_the_source_is_an_argument(into_torch, torch):
    source, wrap = into_torch
    x, weight = torch.tensor(X, requires_grad=True), source.array(X * 3 + 1)
    y = wrap(lambda x, w: source.xp.sin(x) * w)(x, weight)
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT))
    wanted = torch.cos(x.detach()) * torch.tensor(X * 3 + 1) * torch.tensor(COTANGENT)
    torch.testing.assert_close(found, wanted)


def test_array_of_the_source_alone(into_torch, torch):
    source, wrap = into_torch
    found = wrap(lambda w: w * 2)(source.array(X))
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, torch.tensor(X) * 2)


KEYS = {
    "typed": lambda jax: jax.random.key(3),
    "typed, other algorithm": lambda jax: jax.random.key(3, impl="rbg"),
    "raw": lambda jax: jax.random.PRNGKey(3),
}


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
def test_prng_key_gives_the_randomness_of_jax(jax, torch, make, jit):
    key, x = make(jax), torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda key, x: jax.random.normal(key, x.shape) * x * x, jit=jit)(key, x)
    noise = torch.tensor(np.asarray(jax.random.normal(key, X.shape)))
    torch.testing.assert_close(y, noise * x * x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * noise * x.detach())


def test_several_prng_keys_in_an_array(jax, torch):
    keys = jax.random.split(jax.random.key(3), 3)
    draw = lambda keys: jax.vmap(lambda key: jax.random.uniform(key))(keys)
    np.testing.assert_array_equal(jax2torch(draw)(keys).numpy(), draw(keys))


def test_another_prng_key_does_not_retrace(jax, torch):
    fn, runs = counted(lambda key: jax.random.uniform(key, (4,)))
    there = jax2torch(fn)
    drawn = [there(jax.random.key(seed)) for seed in (1, 2, 1)]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert len(runs) == 1


def test_prng_key_split_inside_of_a_differentiated_function(jax, torch):
    """The key among the residuals is no tensor."""

    def dropout(key, x):
        for _ in range(2):
            key, here = jax.random.split(key)
            x = jax.numpy.sin(x) * jax.random.bernoulli(here, 0.5, x.shape)
        return x

    key, x = jax.random.key(1), torch.linspace(-1, 1, 16, requires_grad=True)
    (found,) = torch.autograd.grad(jax2torch(dropout)(key, x).sum(), x)
    wanted = jax.grad(lambda x: dropout(key, x).sum())(x.detach().numpy())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


# Numbers.


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((2, 5, -3), np.float32), ((2.5, 0.0, -1e-3), np.float32), ((2j, 1 + 3j), np.complex64)],
    ids=["int", "float", "complex"],
)
def test_number_is_traced_and_weak(kits, bridged, values, dtype):
    source, target = kits
    if not _registry.source(source.name).traces_scalars:
        pytest.skip(f"{source.name} takes numbers as they are")
    fn, runs = counted(lambda x, n: x * n)
    there = bridged(fn)
    for number in values:
        found = target.numpy(there(target.array(X), number))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, X * number, rtol=1e-6)
    assert len(runs) == 1


def test_number_is_traced_in_the_derivative(into_torch, torch):
    fn, runs = counted(lambda x, n: x * x * n)
    there = into_torch[1](fn)
    for number in (2.5, -3.0):
        x = torch.tensor(X, requires_grad=True)
        there(x, number).sum().backward()
        torch.testing.assert_close(x.grad, 2 * x.detach() * number)
    assert len(runs) == 1 or not _registry.source(into_torch[0].name).traces_scalars


def test_float_number_leaves_integers_to_promote_as_in_the_source(jax, torch):
    x = torch.tensor([1, 2], dtype=torch.int32)
    assert jax2torch(lambda x, n: x * n)(x, 2).dtype == torch.int32
    assert jax2torch(lambda x, n: x * n)(x, 2.0).dtype == torch.float32


def test_number_keeps_a_low_precision(into_torch, torch):
    x = torch.tensor(X, dtype=torch.bfloat16)
    assert into_torch[1](lambda x, n: x * n)(x, 2.5).dtype == torch.bfloat16


def test_float_number_does_not_ask_for_64_bits(jax, torch):
    seen = []
    jax2torch(lambda x, n: seen.append(jax.numpy.zeros(1).dtype) or x)(torch.tensor(X), 2.5)
    assert seen == [np.float32]


def test_float_number_is_accurate_beside_float64(jax, torch):
    x = torch.tensor([1 / 3], dtype=torch.float64)
    found = jax2torch(lambda x, n: x * n)(x, 0.1)
    assert found.item() == 1 / 3 * 0.1


def test_number_too_large_is_an_error(jax, torch):
    with pytest.raises(OverflowError, match=r"[Oo]verflow|int32|does not fit|too large"):
        jax2torch(lambda x, n: x * n)(torch.tensor(X), 2**40)


# Static values.


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


# Methods.


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


# The hint when a traced number should have been static.


def said(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


NEEDS_VALUE = {
    "if": lambda jax, x, n: x if n > 2 else -x,
    "range": lambda jax, x, n: sum(x for _ in range(n)),
    "shape": lambda jax, x, n: jax.numpy.zeros(n),
    "numpy": lambda jax, x, n: np.sin(n) * x,
    "float": lambda jax, x, n: x * float(n),
    "slice": lambda jax, x, n: x[:n],
    "index of a list": lambda jax, x, n: x * [1, 2, 3, 4][n],
}


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("fn", NEEDS_VALUE.values(), ids=NEEDS_VALUE)
def test_number_whose_value_is_needed_should_be_static(jax, torch, fn, jitted):
    def function(x, count):
        return fn(jax, x, count)

    there = jax2torch(jax.jit(function) if jitted else function)
    with pytest.raises((TypeError, IndexError), match=r".") as caught:
        there(torch.tensor(X), 3)
    assert "static_argnames" in said(caught.value)
    assert "count" in said(caught.value)
    static = jax2torch(function, static_argnames="count")
    assert static(torch.tensor(X), 3).shape == (3,)


def test_number_that_jit_below_wants_static(jax, torch):
    """`jax.jit` refuses a tracer as its own static argument, and the hint says what to do."""

    @functools.partial(jax.jit, static_argnames="count")
    def function(x, count):
        return x[:count]

    with pytest.raises(ValueError, match=r"static") as caught:
        jax2torch(function)(torch.tensor(X), 2)
    assert "static_argnames=['count']" in said(caught.value)
    assert jax2torch(function, static_argnames="count")(torch.tensor(X), 2).shape == (2,)


def test_error_without_numbers_has_no_hint(jax, torch):
    with pytest.raises(jax.errors.TracerBoolConversionError, match=r"traced array") as caught:
        jax2torch(lambda x: x if x[0] > 0 else -x)(torch.tensor(X))
    assert "static_argnames=" not in said(caught.value)


def test_hint_names_the_argument_that_holds_the_number(jax, torch):
    """A container is static as a whole or not at all."""
    with pytest.raises(jax.errors.TracerIntegerConversionError, match=r"__index__") as caught:
        jax2torch(lambda x, pair: x * [1, 2, 3, 4][pair[0]])(torch.tensor(X), (3, 4))
    assert "static_argnames=['pair']" in said(caught.value)


def test_error_of_the_user_has_no_hint(jax, torch):
    """A number among the arguments does not make every error one of tracing."""

    def refuse(x, n):
        raise ValueError("bad luck")

    with pytest.raises(ValueError, match=r"^bad luck\b") as caught:
        jax2torch(refuse)(torch.tensor(X), 3)
    assert "static_argnames" not in said(caught.value)


def test_without_jit_numbers_are_values(jax, torch):
    there = jax2torch(lambda x, n: x * 2 if n > 2 else x[:n], jit=False)
    torch.testing.assert_close(there(torch.tensor(X), 3), torch.tensor(X) * 2)
    torch.testing.assert_close(there(torch.tensor(X), 2), torch.tensor(X)[:2])
