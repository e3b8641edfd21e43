"""Gradients, batches and ensembles of modules that hold a bridged function."""

import copy

import numpy as np

RANDOM = np.random.default_rng(8)
MATRIX = RANDOM.uniform(-1.3, 1.5, (5, 3)).astype("float32")


def make_model(torch, middle):
    """A model with `middle` between two layers, always with the same weights."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.linspace(0.5, 1.5, 4))
            self.middle = middle
            self.last = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.middle(self.first(x), self.scale))

    torch.manual_seed(0)
    return Model()


def middle_layer(xp, h, scale):
    return xp.tanh(h * scale) + xp.sin(h).sum(-1)[..., None]


def models(into_torch, torch):
    source, wrap = into_torch
    there = make_model(torch, wrap(lambda *xs: middle_layer(source.xp, *xs)))
    return there, make_model(torch, lambda *xs: middle_layer(torch, *xs))


def test_gradients_of_a_module(into_torch, torch):
    there, here = models(into_torch, torch)
    x = torch.tensor(MATRIX)
    for model in (there, here):
        model(x).square().sum().backward()
    found = {name: p.grad for name, p in there.named_parameters()}
    torch.testing.assert_close(found, {name: p.grad for name, p in here.named_parameters()})


def per_sample_gradients(torch, model, x):
    parameters = dict(model.named_parameters())

    def loss(parameters, row):
        return torch.func.functional_call(model, parameters, (row,)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)


def test_per_sample_gradients_of_a_module(into_torch, torch):
    there, here = models(into_torch, torch)
    x = torch.tensor(MATRIX)
    expected = per_sample_gradients(torch, here, x)
    torch.testing.assert_close(per_sample_gradients(torch, there, x), expected)


def test_ensemble_of_modules(into_torch, torch):
    """torch.func.stack_module_state: the weights are batched, not the data."""
    x = torch.tensor(MATRIX)

    def ensemble(model):
        stacked = {k: torch.stack([p, p * 0.5]) for k, p in model.named_parameters()}
        call = lambda weights: torch.func.functional_call(model, weights, (x,))
        return torch.func.vmap(call)(stacked)

    there, here = models(into_torch, torch)
    torch.testing.assert_close(ensemble(there), ensemble(here))


def test_copy_of_a_module_computes_the_same(into_torch, torch):
    """Ensembles and averaged weights begin with copy.deepcopy, also after a first call."""
    model, _ = models(into_torch, torch)
    x = torch.tensor(MATRIX)
    expected = model(x)
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(x), expected)
    other(x).sum().backward()
    assert all(p.grad is None for p in model.parameters())
