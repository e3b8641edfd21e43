"""Functions and arrays of one framework where those of another are expected."""

import functools

import numpy as np
import pytest

import bridge
from tests.conftest import DIRECTIONS
from tests.kits import kit

X = np.array([0.3, -1.2], np.float32)
FRAMEWORKS = ("torch", "jax", "mlx")
OTHERS = [
    (source, target, other)
    for source, target in DIRECTIONS
    for other in FRAMEWORKS
    if other != source
]


def meant(target, source, other):
    return f"{other}2{target if other != target else source}"


@pytest.fixture(params=OTHERS, ids=lambda p: f"{p[0]}2{p[1]} of {p[2]}")
def mixed(request):
    """The wrapper, an array for it, the namespace of a wrong framework, the wrapper for that."""
    source, target, other = request.param
    kit(source)
    wrap = getattr(bridge, f"{source}2{target}")
    return wrap, kit(target).array(X), kit(other), meant(target, source, other)


def notes(call):
    with pytest.raises((TypeError, ValueError, AttributeError, RuntimeError)) as caught:
        call()
    return "\n".join(getattr(caught.value, "__notes__", []))


def test_function_of_another_framework(mixed):
    wrap, x, other, right = mixed
    text = notes(lambda: wrap(other.xp.sin)(x))
    assert f"sin uses {other.name}. Did you mean {right}?" in text
    assert text.count("Did you mean") == 1


def test_partial_function_of_another_framework(mixed):
    wrap, x, other, right = mixed
    assert f"Did you mean {right}?" in notes(lambda: wrap(functools.partial(other.xp.sin))(x))


def test_operation_of_another_framework(mixed):
    wrap, x, other, right = mixed
    xp = other.xp

    def energy(x):
        return xp.sin(x * 2)

    text = notes(lambda: wrap(energy)(x))
    assert f"energy uses {other.name}. Did you mean {right}?" in text
    assert f"is wrapped by {other.name}2" in text


@pytest.mark.parametrize(("source", "target", "other"), [o for o in OTHERS if o[0] != "mlx"])
def test_array_of_another_framework_in_a_closure(source, target, other):
    """MLX takes such arrays as constants, as does NumPy; torch and JAX do not."""
    here, factor = kit(source), kit(other).array(X)
    bridged = getattr(bridge, f"{source}2{target}")(lambda x: here.xp.sin(x) * factor)
    text = notes(lambda: bridged(kit(target).array(X)))
    assert f"`factor` is an array of {other}. Pass it as an argument, or convert it" in text
    assert f"bridge.to_{source}." in text
    assert "Did you mean" not in text


def test_operation_found_in_no_name(mixed):
    """Then only the classes of the arrays are explained."""
    wrap, x, other, _ = mixed
    names = {"xp": other.xp}

    def energy(x):
        return names["xp"].sin(x)

    text = notes(lambda: wrap(energy)(x))
    source = wrap.__name__.partition("2")[0]
    assert f"{wrap.__name__} calls energy with arrays of {source}: each " in text


def test_result_of_another_framework(mixed):
    wrap, x, other, right = mixed
    array = other.array(X)
    text = rf"result\['y'\] of energy is a {other.name} \w+, but .* Did you mean {right}\?"

    def energy(x):
        return {"y": array}

    with pytest.raises(bridge.ArgumentError, match=text):
        wrap(energy)(x)


def test_exceptions_of_the_user_have_no_note(kits, bridged):
    _, target = kits

    def energy(x):
        raise ValueError("energy below zero")

    assert "arrays of" not in notes(lambda: bridged(energy)(target.array(X)))


def test_error_of_shapes_has_no_note(kits, bridged):
    source, target = kits
    text = notes(lambda: bridged(lambda x: source.xp.reshape(x, (7,)))(target.array(X)))
    assert "arrays of" not in text


def test_code_that_names_two_frameworks_is_innocent(kits, bridged):
    """If its error speaks of no array."""
    source, target = kits
    xp, others = source.xp, target.xp

    def energy(x):
        return xp.reshape(x, (7, len(others.__name__)))

    assert "Did you mean" not in notes(lambda: bridged(energy)(target.array(X)))


@pytest.fixture
def module(request):
    """Modules by framework."""
    torch, nn = pytest.importorskip("torch"), pytest.importorskip("mlx.nn")
    return {"torch": torch.nn.Linear(2, 2), "mlx": nn.Linear(2, 2)}


@pytest.mark.parametrize("other", ["torch", "mlx"])
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_module_of_another_framework(module, source, target, other):
    pytest.importorskip("jax")
    wrap = getattr(bridge, f"{source}2{target}")
    if other == source:
        pytest.skip("its own")
    with pytest.raises(
        bridge.ArgumentError,
        match=rf"expects a function of {source}, but got a module of {other}, Linear\. "
        rf"Did you mean {meant(target, source, other)}\?",
    ):
        wrap(module[other])


@pytest.mark.parametrize("other", ["torch", "mlx"])
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_class_where_a_module_is_expected(module, source, target, other):
    pytest.importorskip("jax")
    right = f"{source}2{target}" if other == source else meant(target, source, other)
    with pytest.raises(
        bridge.ArgumentError, match=rf"the class Linear\..*: {right}\(Linear\(\.\.\.\)\)"
    ):
        getattr(bridge, f"{source}2{target}")(type(module[other]))


class Energy:
    def __call__(self, x):
        return x * 2


def test_class_of_a_function(kits, bridged):
    with pytest.raises(
        bridge.ArgumentError, match=r"Energy is a Energy.*instance, Energy\(\.\.\.\)"
    ):
        bridged(Energy)()


def generator(x):
    yield x


async def coroutine(x):
    return x


async def stream(x):
    yield x


@pytest.mark.parametrize("fn", [generator, coroutine, stream], ids=lambda fn: fn.__name__)
def test_function_that_returns_no_arrays(bridged, fn):
    with pytest.raises(bridge.ArgumentError, match=rf"{fn.__name__} is a \w+ function, which"):
        bridged(fn)


def test_generator_as_a_result(kits, bridged):
    _, target = kits
    with pytest.raises(bridge.ArgumentError, match=r"is a generator.*Return a list"):
        bridged(lambda x: (y for y in [x]))(target.array(X))


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_function_that_is_bridged_already(kits, bridged, source, target):
    """It is a function of the framework that it is called from."""
    wanted, here = kits
    inner = getattr(bridge, f"{source}2{target}")(kit(source).xp.sin)
    if target == wanted.name:
        bridged(inner)
        return
    right = "Call it as it is"
    if target != here.name:
        right = rf"Did you mean {target}2{here.name}\?"
    with pytest.raises(bridge.ArgumentError, match=rf"called with arrays of {target}\. {right}"):
        bridged(inner)


def test_module_that_is_bridged_already(module):
    with pytest.raises(
        bridge.ArgumentError, match=r"`apply\(params, buffers, \*args\)`: pass that"
    ):
        bridge.jax2mlx(bridge.torch2jax(module["torch"]))


def test_array_of_a_third_framework(kits, bridged):
    source, target = kits
    (third,) = {*FRAMEWORKS} - {source.name, target.name}
    with pytest.raises(
        bridge.ArgumentError,
        match=rf"argument x of energy: it is an array of {third}.*"
        rf"to_{target.name}.*{source.name}2{third}",
    ):
        bridged(energy)(kit(third).array(X))


def energy(x):
    return x * 2


def test_list_where_an_array_is_expected(kits, bridged):
    _, target = kits

    def product(x, y):
        return x @ y

    with pytest.raises(TypeError) as caught:
        bridged(product)([[1.0, 2.0]], target.array(X))
    assert "A list or tuple stays one: pass an array" in "\n".join(caught.value.__notes__)
