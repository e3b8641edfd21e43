"""The same modules in each framework, trained natively; the truth for modules of others."""

import copy

import numpy as np
import pytest


class OfTorch:
    """Modules of torch."""

    name = "torch"

    def __init__(self):
        self.torch = pytest.importorskip("torch")
        from tests import torch_layers

        self.layers = torch_layers

    def normalized(self):
        self.torch.manual_seed(0)
        return self.layers.Normalized()

    def dropping(self):
        return self.layers.Dropping()

    def arrays(self, module):
        numpy = lambda pairs: {name: x.detach().numpy().copy() for name, x in pairs}
        return numpy(module.named_parameters()), numpy(module.named_buffers())

    def is_training(self, module):
        return all(part.training for part in module.modules())

    def set_evaluation(self, module):
        module.eval()

    def _loss(self, module, x, y):
        return ((module(self.torch.tensor(x)) - self.torch.tensor(y)) ** 2).mean()

    def step(self, module, x, y):
        """The loss in training, its gradients by name, and the buffers after it."""
        module.zero_grad()
        loss = self._loss(module, x, y)
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
        return loss.item(), gradients, self.arrays(module)[1]

    def evaluate(self, module, x):
        module = copy.deepcopy(module).eval()
        return module(self.torch.tensor(x)).detach().numpy()

    def encode(self, module, x):
        return module.encode(self.torch.tensor(x)).detach().numpy()

    def train(self, module, x, y, steps):
        """All arrays by name after steps of AdamW."""
        rule = self.torch.optim.AdamW(module.parameters(), 0.05, eps=1e-3, weight_decay=0.1)
        for _ in range(steps):
            self.step(module, x, y)
            rule.step()
        params, buffers = self.arrays(module)
        return params | buffers


class OfJax:
    """Modules of Flax."""

    name = "jax"

    def __init__(self):
        pytest.importorskip("jax")
        self.nnx = pytest.importorskip("flax.nnx")
        from tests import nnx_layers

        self.layers = nnx_layers

    def normalized(self):
        return self.layers.Normalized(self.nnx.Rngs(0))

    def dropping(self):
        return self.layers.Dropping(self.nnx.Rngs(0))

    def arrays(self, module):
        _, params, others = self.nnx.split(module, self.nnx.Param, ...)
        return tuple(
            {
                ".".join(map(str, path)): np.array(variable[...])
                for path, variable in self.nnx.to_flat_state(state)
                if not isinstance(variable, self.nnx.RngState)
            }
            for state in (params, others)
        )

    def is_training(self, module):
        return not module.norm.use_running_average

    def set_evaluation(self, module):
        module.eval()

    def step(self, module, x, y):
        """The loss in training, its gradients by name, and the buffers after it."""
        loss, gradients = self.nnx.value_and_grad(lambda m: ((m(x) - y) ** 2).mean())(module)
        flat = self.nnx.to_flat_state(gradients)
        named = {".".join(map(str, path)): np.array(g[...]) for path, g in flat}
        return loss.item(), named, self.arrays(module)[1]

    def evaluate(self, module, x):
        module = self.nnx.clone(module)
        module.eval()
        return np.array(module(x))

    def encode(self, module, x):
        return np.array(module.encode(x))

    def train(self, module, x, y, steps):
        """All arrays by name after steps of AdamW."""
        optax = pytest.importorskip("optax")
        adamw = optax.adamw(0.05, eps=1e-3, weight_decay=0.1)
        rule = self.nnx.Optimizer(module, adamw, wrt=self.nnx.Param)
        grad = self.nnx.grad(lambda m: ((m(x) - y) ** 2).mean())
        for _ in range(steps):
            rule.update(module, grad(module))
        params, buffers = self.arrays(module)
        return params | buffers


MODULES = {"torch": OfTorch, "jax": OfJax}
