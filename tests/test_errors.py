"""What a user reads when an argument is wrong, and the names a function keeps."""

import functools
import inspect

import numpy as np
import pytest

import bridge
from bridge import jax2torch

X = np.array([0.3, -1.2, 2.0], np.float32)


BUILTINS = {
    "ArgumentError": TypeError,
    "DeviceError": RuntimeError,
    "MissingFrameworkError": ImportError,
    "NoRuleError": NotImplementedError,
    "NoValuesError": TypeError,
    "OptionError": ValueError,
    "RangeError": OverflowError,
    "UnknownFrameworkError": LookupError,
}


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items(), ids=BUILTINS)
def test_error_is_the_builtin_a_user_would_catch(name, builtin):
    assert issubclass(getattr(bridge, name), builtin)
    assert issubclass(getattr(bridge, name), bridge.BridgeError)


# Names.


def energy(x, weights=None, *, scale: float = 2.0):
    """The energy of a state."""
    return x * scale


def test_docstring_signature_and_name_are_kept(kits, bridged):
    there = bridged(energy)
    assert inspect.signature(there) == inspect.signature(energy)
    assert inspect.getdoc(there) == "The energy of a state."
    assert there.__name__ == "energy"
    assert there.__qualname__ == "energy"
    assert there.__module__ == __name__
    assert inspect.unwrap(there) is energy


def test_repr_names_the_direction_and_the_function(kits, bridged):
    source, target = kits
    text = repr(bridged(energy))
    assert f"{source.name}2{target.name}" in text
    assert "energy" in text


def test_decorator_with_and_without_options(kits, bridged):
    _, target = kits

    @bridged
    def plain(x):
        return x * 2

    @bridged(static_argnames="n")
    def configured(x, n):
        return sum([x] * n)

    x = target.array(X)
    np.testing.assert_allclose(target.numpy(plain(x)), X * 2)
    np.testing.assert_allclose(target.numpy(configured(x, 3)), X * 3, rtol=1e-6)
    assert (plain.__name__, configured.__name__) == ("plain", "configured")


NAMED = {
    "function": lambda: energy,
    "partial": lambda: functools.partial(energy, scale=3.0),
    "object": lambda: Energy(),
    "method": lambda: Energy().energy,
}


class Energy:
    def __call__(self, x):
        return x * 2

    def energy(self, x):
        return x * 2


@pytest.mark.parametrize("residuals", ["save", "recompute"])
@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_grad_fn_bears_the_name(into_torch, torch, make, residuals):
    y = into_torch[1](make(), residuals=residuals)(torch.tensor(X, requires_grad=True))
    assert "energy" in y.grad_fn.name().lower()


def test_names_of_two_functions_are_not_mixed(into_torch, torch):
    x = torch.tensor(X, requires_grad=True)

    def other(x):
        return x * 3

    results = [into_torch[1](fn)(x) for fn in (energy, other, energy)]
    names = [y.grad_fn.name() for y in results]
    assert names[0] == names[2]
    assert "energy" in names[0]
    assert "other" in names[1]


# Arguments and options that are wrong.


@pytest.mark.parametrize("value", [3, "energy", [energy], X], ids=type)
def test_value_is_no_function(kits, bridged, value):
    _, target = kits
    with pytest.raises(
        bridge.ArgumentError, match=rf"expects a function.*bridge\.to_{target.name}"
    ):
        bridged(value)


def test_tensor_is_no_function(into_torch, torch):
    with pytest.raises(bridge.ArgumentError, match=r"expects a function.*Tensor.*bridge\.to_torch"):
        into_torch[1](torch.ones(3))


def test_unknown_way_of_residuals(into_torch):
    with pytest.raises(bridge.OptionError, match=r"residuals='some'.*save.*recompute"):
        into_torch[1](energy, residuals="some")


class Opaque:
    def __init__(self, held):
        self.held = held


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held


class PrivatelySlotted:
    __slots__ = "__held"

    def __init__(self, held):
        self.__held = held


OPAQUE = {
    "attribute": lambda torch, x: Opaque(x),
    "attribute that is a list": lambda torch, x: Opaque([1, x]),
    "attribute that is a dict": lambda torch, x: Opaque({"x": x}),
    "attribute of an attribute": lambda torch, x: Opaque(Opaque(x)),
    "slot": lambda torch, x: Slotted(x),
    "private slot": lambda torch, x: PrivatelySlotted(x),
    "torch module": lambda torch, x: torch.nn.Linear(2, 3),
    "nested torch module": lambda torch, x: torch.nn.Sequential(torch.nn.Linear(2, 3)),
}


@pytest.mark.parametrize("make", OPAQUE.values(), ids=OPAQUE)
def test_opaque_object_that_holds_tensors(into_torch, torch, make):
    """Its tensors would be constants of the trace, without gradients and without updates."""
    held = make(torch, torch.ones(3, requires_grad=True))
    text = rf"argument model of energy_of.*{type(held).__name__}.*holds arrays.*pytree"

    def energy_of(model, x):
        return x * 2

    with pytest.raises(bridge.ArgumentError, match=text):
        into_torch[1](energy_of)(held, torch.tensor(X))


def test_opaque_object_without_tensors_is_static(into_torch, torch):
    there = into_torch[1](lambda model, x: x * model.held)
    torch.testing.assert_close(there(Opaque(3), torch.tensor(X)), torch.tensor(X) * 3)


def test_argument_is_named_by_its_path(into_torch, torch):
    def f(first, *rest, options):
        return first

    there, odd = into_torch[1](f), torch.eye(2).to_sparse()
    x = torch.tensor(X)
    with pytest.raises(bridge.ArgumentError, match=r"argument first\['a'\]\[1\] of f:"):
        there({"a": [x, odd]}, options=x)
    with pytest.raises(bridge.ArgumentError, match=r"argument rest\[1\] of f:"):
        there(x, x, odd, options=x)
    with pytest.raises(bridge.ArgumentError, match=r"argument options\['w'\] of f:"):
        there(x, options={"w": odd})


def test_tracer_of_jax_has_no_values(jax, torch):
    """The function is called from torch; inside of `jax.jit` the JAX function itself serves."""
    with pytest.raises(bridge.NoValuesError, match=r"x of energy.*float32\[3\]"):
        jax.jit(jax2torch(energy))(X)


# Devices.


def test_arguments_on_different_devices(into_torch, torch):
    def f(x, y):
        return x

    with pytest.raises(
        bridge.ArgumentError, match=r"of f .*different devices.*x on cpu, y on meta"
    ):
        into_torch[1](f)(torch.ones(3), torch.ones(3, device="meta"))


@pytest.fixture
def cuda_tensor(torch):
    """A tensor that says it is on a GPU, for machines without one."""
    fake = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake.FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(3, device="cuda:0")


def test_cuda_tensor_where_jax_has_no_gpu(jax, torch, cuda_tensor):
    if jax.default_backend() != "cpu":
        pytest.skip("JAX has a GPU here")
    with pytest.raises(bridge.DeviceError, match=r'cuda:0.*jax\[cuda.*device="cpu"'):
        jax2torch(energy)(cuda_tensor)


def test_asked_device_that_does_not_exist(jax, torch):
    with pytest.raises(bridge.DeviceError, match=r"cannot compute on cuda:77"):
        jax2torch(energy, device="cuda:77")(torch.tensor(X))


def test_asked_device_that_exists(jax, torch):
    found = jax2torch(energy, device="cpu")(torch.tensor(X))
    torch.testing.assert_close(found, torch.tensor(X) * 2)
