"""Modules and functions that were brought to another framework, as files and copies."""

import copy
import io
import pickle

import numpy as np
import pytest

from bridge import jax2torch, mlx2jax, mlx2torch, torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
mx = pytest.importorskip("mlx.core")
mnn = pytest.importorskip("mlx.nn")

X = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")


def sine(x):
    return jax.numpy.sin(x)


def mlx_sine(x):
    return mx.sin(x)


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "deepcopy": copy.deepcopy,
    "torch.save": saved,
}
MODULES = {
    "torch2jax": (torch2jax, lambda: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())),
    "torch2jax with statistics": (torch2jax, lambda: torch.nn.BatchNorm1d(3)),
    "mlx2jax": (mlx2jax, lambda: mnn.Linear(3, 2)),
}

ARRAYS = {"jax": jax.numpy.asarray, "mlx": mx.array, "torch": torch.tensor}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODULES)
def test_a_module_comes_back(kind, way):
    wrap, make = MODULES[kind]
    there = wrap(make())
    there.params = {name: 2 * x for name, x in there.params.items()}
    x = ARRAYS[kind.split()[0].partition("2")[2]](X)
    back = WAYS[way](there)
    assert repr(back) == repr(there)
    assert back.module is not there.module
    expected, _ = there.apply(there.params, there.buffers, x)
    found, _ = back.apply(back.params, back.buffers, x)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_module_of_mlx_comes_back(way):
    layer = torch2mlx(torch.nn.BatchNorm1d(3)).eval()
    layer.weight = 2 * layer.weight
    layer.running_mean = 1 + layer.running_mean
    back = WAYS[way](layer)
    assert repr(back) == repr(layer)
    assert not back.training
    assert mx.allclose(back(mx.array(X)), layer(mx.array(X)))
    back.weight = 2 * back.weight
    assert not mx.array_equal(layer.weight, back.weight)


@pytest.mark.parametrize("way", WAYS)
def test_a_module_of_torch_comes_back(way):
    layer = mlx2torch(mnn.BatchNorm(3)).eval()
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.running_mean.add_(1)
    back = WAYS[way](layer)
    assert repr(back) == repr(layer)
    torch.testing.assert_close(back(torch.tensor(X)), layer(torch.tensor(X)))
    with torch.no_grad():
        back.weight.mul_(2)
    assert not layer.weight.equal(back.weight)


class Holding(torch.nn.Module):
    """A model of torch that holds what is of other frameworks."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.inner = mlx2torch(mnn.Linear(3, 2))
        self.sine, self.other = jax2torch(sine), mlx2torch(mlx_sine)

    def forward(self, x):
        y = self.inner(self.layer(x))
        return self.sine(y) + self.other(y)


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_holds_others_comes_back(way):
    model = Holding()
    back = WAYS[way](model)
    torch.testing.assert_close(back(torch.tensor(X)), model(torch.tensor(X)))
