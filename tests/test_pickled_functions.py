"""Functions that are pickled, saved or copied, alone and within modules."""

import copy
import io
import pathlib
import pickle

import numpy as np
import pytest

from tests.processes import fresh_process

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402, behind the skips

from bridge import jax2torch  # noqa: E402

X = np.random.default_rng(51).uniform(0.3, 1.5, (4, 3)).astype("float32")


# Copies. A function that Python finds by its name comes back by it in another process.


def energy(x, power=2):
    return jnp.sum(jnp.sin(x) ** power)


@jax2torch
def decorated(x):
    return jnp.sum(jnp.cos(x))


@jax2torch(static_argnames="power", residuals="recompute")
def configured(x, power=2):
    return jnp.sum(x**power)


class Holding(torch.nn.Module):
    """A module that holds a function, as an attribute."""

    def __init__(self, function):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


HELD = {
    "decorated": lambda: decorated,
    "decorated with options": lambda: configured,
    "wrapped": lambda: jax2torch(energy),
    "wrapped with options": lambda: jax2torch(energy, residuals="recompute", static_argnums=1),
}


def value_and_gradient(module):
    value = module(torch.tensor(X)).sum()
    (g,) = torch.autograd.grad(value, module.linear.weight)
    return [value.item(), *g.flatten().tolist()]


def unpickled(*paths):
    """What modules compute where they come from files, and how their functions are shown."""
    modules = [pickle.loads(pathlib.Path(path).read_bytes()) for path in paths]
    return [(value_and_gradient(module), repr(module.function)) for module in modules]


@pytest.mark.parametrize("called", [False, True], ids=["new", "called"])
@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_module_is_pickled(held, called):
    module = Holding(held())
    expected = value_and_gradient(module) if called else None
    again = pickle.loads(pickle.dumps(module))
    assert value_and_gradient(again) == (expected or value_and_gradient(module))
    assert repr(again.function) == repr(module.function)


def test_module_is_unpickled_in_a_fresh_process(tmp_path):
    modules = [Holding(make()) for make in HELD.values()]
    expected = [value_and_gradient(module) for module in modules]
    paths = [tmp_path / name for name in HELD]
    for path, module in zip(paths, modules, strict=True):
        path.write_bytes(pickle.dumps(module))
    found, shown = zip(*fresh_process(unpickled, *map(str, paths)), strict=True)
    for values, same in zip(found, expected, strict=True):
        assert values == pytest.approx(same)
    assert shown == tuple(repr(module.function) for module in modules)


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_module_is_saved_and_loaded(held):
    module, file = Holding(held()), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert value_and_gradient(again) == value_and_gradient(module)


def test_function_that_no_name_leads_to_is_not_pickled():
    module = Holding(jax2torch(lambda x: jnp.sin(x)))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(module)


COPIED = {**HELD, "lambda": lambda: jax2torch(lambda x: jnp.sin(x))}


@pytest.mark.parametrize("called", [False, True], ids=["new", "called"])
@pytest.mark.parametrize("held", COPIED.values(), ids=COPIED)
def test_module_is_copied(held, called):
    module = Holding(held())
    expected = value_and_gradient(module) if called else None
    again = copy.deepcopy(module)
    assert value_and_gradient(again) == (expected or value_and_gradient(module))
    again.linear.weight.data.zero_()
    assert module.linear.weight.abs().sum() > 0


def test_copy_keeps_what_was_traced():
    """An ensemble of copies compiles once."""
    traced = []

    def fn(x):
        traced.append(1)
        return jnp.sin(x)

    module = Holding(jax2torch(fn))
    value_and_gradient(module)
    for _ in range(3):
        value_and_gradient(copy.deepcopy(module))
    assert len(traced) == 1
