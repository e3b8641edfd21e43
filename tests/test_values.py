"""What is no array of a framework, where values are converted or are arguments."""

import random
import subprocess
import sys

import numpy as np
import pytest

import bridge
from tests.kits import kit
from tests.versions import older

X = np.array([[0.3, -1.2, 2.0], [1.4, -0.6, 0.9]], np.float32)


class Exporter:
    """An array of nobody that we know: it has what DLPack asks for, and nothing else."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **how):
        return self._array.__dlpack__(**how)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Frame:
    """The values of an array, but none."""

    def __array__(self, dtype=None, copy=None):
        return X


class DataFrame(Frame):
    def to_numpy(self):
        return X


@pytest.fixture(params=["torch", "jax", "mlx"])
def target(request):
    return kit(request.param)


@pytest.fixture
def convert(target):
    return getattr(bridge, f"to_{target.name}")


def test_exporter_is_converted(target, convert):
    x = convert({"x": [Exporter(X.copy()), "name"]})["x"]
    assert isinstance(x[0], type(target.array(X)))
    assert x[1] == "name"
    np.testing.assert_array_equal(target.numpy(x[0]), X)
    np.testing.assert_array_equal(target.numpy(convert(Exporter(X.T))), X.T)


@pytest.mark.parametrize("dtype", ["int64", "float64", "complex128"])
def test_dtype_of_an_exporter_is_kept_or_refused(target, convert, dtype):
    """JAX in its 32-bit mode, and MLX, would narrow it."""
    x = Exporter(X.astype(dtype))
    if target.name == "jax" or (target.name, dtype) == ("mlx", "complex128"):
        with pytest.raises(bridge.ArgumentError, match=dtype):
            convert(x)
    else:
        np.testing.assert_array_equal(target.numpy(convert(x)), X.astype(dtype))


@pytest.mark.xfail(older("numpy", 2, 3), reason="numpy 2.1 takes such memory for read-only")
def test_exporter_is_shared_as_asked():
    torch = pytest.importorskip("torch")
    x = X.copy()
    shared, own = bridge.to_torch(Exporter(x), copy=False), bridge.to_torch(Exporter(x), copy=True)
    x[0, 0] = 7
    assert (shared[0, 0].item(), own[0, 0].item()) == (7, pytest.approx(0.3))
    assert isinstance(own, torch.Tensor)


def test_exporter_on_another_device(convert):
    class Elsewhere(Exporter):
        def __dlpack_device__(self):
            return 7, 0  # Vulkan

    with pytest.raises(bridge.ArgumentError, match=r"leaf x cannot be.*Elsewhere.*another device"):
        convert({"x": Elsewhere(X)})


def test_exporter_that_refuses(convert):
    torch = pytest.importorskip("torch")
    with pytest.raises(bridge.ArgumentError, match=r"Exporter that cannot be read.*gradient"):
        convert(Exporter(torch.ones(3, requires_grad=True)))


def test_exporter_as_an_argument(kits, bridged):
    """It was a constant of the trace: a change of it was not seen."""
    _, target = kits
    with pytest.raises(
        bridge.ArgumentError, match=rf"argument w of .*: it is a Exporter.*to_{target.name}"
    ):
        bridged(lambda w, x: x)(Exporter(X.copy()), target.array(X))


def test_exporter_as_a_result(kits, bridged):
    _, target = kits
    with pytest.raises(bridge.ArgumentError, match=r"is a Exporter, no array of"):
        bridged(lambda x: Exporter(X))(target.array(X))


FRAMES = pytest.mark.parametrize(
    ("frame", "text"),
    [(Frame(), r"`numpy\.asarray`"), (DataFrame(), r"`\.to_numpy\(\)`")],
    ids=["Frame", "DataFrame"],
)


@FRAMES
def test_data_frame_is_no_array(convert, frame, text):
    name = type(frame).__name__
    for tree in (frame, {"x": [1, frame]}):
        with pytest.raises(bridge.ArgumentError, match=rf"converts arrays.*a {name}\. Pass {text}"):
            convert(tree)


@FRAMES
def test_data_frame_as_an_argument(kits, bridged, frame, text):
    _, target = kits
    x = target.array(X)
    there = bridged(lambda frame, x: x)
    with pytest.raises(bridge.ArgumentError, match=rf"argument frame of .*Pass {text}"):
        there(frame, x)
    static = bridged(lambda frame, x: x, static_argnums=0)
    np.testing.assert_array_equal(target.numpy(static(frame, x)), X)


ONCE = {
    "generator": lambda: (x for x in [1.0, 2.0]),
    "list_iterator": lambda: iter([1.0, 2.0]),
    "map": lambda: map(float, [1, 2]),
    "zip": lambda: zip([1.0], [2.0], strict=True),
}


@pytest.mark.parametrize("name", ONCE)
def test_iterator_as_an_argument(kits, bridged, name):
    """It was empty where the function ran again: the result was 0, or its derivative."""
    _, target = kits
    x = target.array(X)
    there = bridged(lambda numbers, x: x * len(list(numbers)))
    with pytest.raises(
        bridge.ArgumentError, match=rf"argument numbers of .*: it is a {name}, .*Pass a list"
    ):
        there(ONCE[name](), x)
    with pytest.raises(bridge.ArgumentError, match="Pass a list"):
        there({"numbers": [ONCE[name]()]}, x)
    np.testing.assert_array_equal(target.numpy(there([1.0, 2.0], x)), 2 * X)


GENERATORS = {
    "Generator": lambda: np.random.default_rng(0),
    "RandomState": lambda: np.random.RandomState(0),
    "Random": lambda: random.Random(0),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_of_random_numbers_as_an_argument(kits, bridged, name):
    """What it drew was a constant, the same on each call."""
    _, target = kits
    there = bridged(lambda x, noise: x * noise.normal())
    with pytest.raises(
        bridge.ArgumentError, match=rf"argument noise of .*: it is a {name}, whose random numbers"
    ):
        there(target.array(X), GENERATORS[name]())


def test_generator_of_torch_as_an_argument():
    """The same key gave other numbers with each call."""
    torch, place = pytest.importorskip("torch"), kit("jax")
    there = bridge.torch2jax(lambda x, noise: x + torch.randn(3, generator=noise))
    with pytest.raises(bridge.ArgumentError, match=r"it is a Generator, whose random numbers"):
        there(place.array(X), torch.Generator())


def test_module_is_no_array(target, convert):
    """One of MLX is a tree of its arrays, and converted as such."""
    nn = pytest.importorskip("torch.nn")
    module = nn.Linear(2, 2)
    if target.name == "torch":  # it is where it was to be
        assert convert(module) is module
        return
    text = rf"to_{target.name} converts arrays, but got a module of torch, Linear\. torch2"
    for tree in (module, {"net": module}):
        with pytest.raises(bridge.ArgumentError, match=text):
            convert(tree)


def test_function_is_no_array(target, convert):
    source = "jax" if target.name != "jax" else "torch"
    text = rf"but got the function sin\. {source}2{target.name} makes a function"
    with pytest.raises(bridge.ArgumentError, match=text):
        convert(kit(source).xp.sin)
    with pytest.raises(bridge.ArgumentError, match=r"the function <lambda>\. \w+ or \w+ makes"):
        convert(lambda x: x)


def test_object_that_holds_arrays(target, convert):
    class State:
        def __init__(self):
            self.x = X

    with pytest.raises(bridge.ArgumentError, match=r"got a State, which holds arrays.*dataclass"):
        convert(State())


@pytest.mark.parametrize("value", ["name", b"name", None, 3, 2.5, True, np.float32(2), object()])
def test_everything_else_stays(convert, value):
    assert convert(value) is value
    assert convert([value])[0] is value


def test_function_within_a_tree_stays(target, convert):
    """As in the state of an optimizer, or a model of Equinox."""
    fn = lambda x: x
    assert convert({"activation": fn, "x": X})["activation"] is fn


# Names.


def test_testing_is_an_attribute_and_loads_no_framework():
    code = (
        "import sys, bridge; bridge.testing.check_gradients; "
        "assert not {'torch', 'jax', 'mlx'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_operator_without_its_name():
    with pytest.raises(
        bridge.OptionError, match=r'but got sinc\. Write @register_lowering\("aten\.'
    ):

        @bridge.register_lowering
        def sinc(x):
            return x


def test_operator_itself_in_place_of_its_name():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        bridge.OptionError, match=r'Write @register_lowering\("aten\.sin\.default"\)'
    ):
        bridge.register_lowering(torch.ops.aten.sin.default)
