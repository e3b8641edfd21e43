"""Modules of torch hold what `apply` was given while it runs, and what they held afterwards."""

import contextlib
import threading

import numpy as np
import pytest

from bridge import torch2jax

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")

from tests.torch_modules import TiedBuffers, state  # noqa: E402

nn = torch.nn
parametrize = torch.nn.utils.parametrize

X = np.random.default_rng(5).normal(size=(4, 3)).astype("float32")


def compared(module, capture, around=contextlib.nullcontext):
    """Hold value, gradients and buffers at other parameters than its own to native ones."""
    there = torch2jax(module, capture=capture)
    params = {name: 1.5 * x + 0.1 for name, x in there.params.items()}
    before = state(module)

    def loss(params, x):
        output, buffers = there.apply(params, there.buffers, x)
        return (output**2).sum(), buffers

    with around():
        (value, buffers), gradients = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, X)
    assert state(module) == before

    for name, parameter in module.named_parameters():
        parameter.data = torch.tensor(np.asarray(params[name]))
    x = torch.tensor(X, requires_grad=True)
    native = (module(x) ** 2).sum()
    for name, buffer in module.named_buffers():
        close(buffers[name], buffer)
    native.backward()
    close(value, native)
    close(gradients[1], x.grad)
    for name, parameter in module.named_parameters():
        close(gradients[0][name], parameter.grad)


def close(ours, native):
    np.testing.assert_allclose(ours, native.numpy(force=True), rtol=1e-4, atol=1e-5)


class Invertible(torch.autograd.Function):
    """A layer whose backward pass runs the module again, as reversible layers and adjoints do."""

    @staticmethod
    def forward(ctx, x, layer, *parameters):
        ctx.layer = layer
        ctx.save_for_backward(x, *parameters)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx, cotangent):
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = ctx.layer(x)
            gradients = torch.autograd.grad(output, [x, *parameters], cotangent)
        return gradients[0], None, *gradients[1:]


class Functional(torch.autograd.Function):
    """The same in the way that torch.func takes."""

    backward = Invertible.backward

    @staticmethod
    def forward(x, layer, *parameters):
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.layer, *parameters = inputs
        ctx.save_for_backward(x, *parameters)


class Adjoint(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), function

    def forward(self, x):
        return self.function.apply(x, self.layer, *self.layer.parameters())


class Doubled(nn.Module):
    """One submodule under two names."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(3, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 3), nn.Tanh())

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False)


class Recursive(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, depth=2):
        return self(torch.sin(self.layer(x)), depth - 1) if depth else x


class Remembering(nn.Module):
    """A module that sets attributes and parts of itself while it is called."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(3, 3), torch.zeros(1)

    def forward(self, x):
        self.part = nn.Identity()
        self.seen = self.part(self.layer(x))
        self.calls = 1
        return torch.sin(self.seen)


class Antisymmetric(nn.Module):
    def forward(self, weight):
        return weight - weight.T


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        parametrize.register_parametrization(self.layer, "weight", Antisymmetric())

    def forward(self, x):
        return self.layer(torch.sin(self.layer(x)))


def hooked():
    module = nn.Linear(3, 3)
    module.weight.register_hook(lambda gradient: 2 * gradient)
    module.register_forward_hook(lambda module, _, output: output * module.bias.sum())
    module.register_full_backward_hook(lambda _, inputs, __: tuple(3 * x for x in inputs))
    return module


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x[None])[0]


class Installing(nn.Module):
    """Installs hooks in its first call, and marks that, as models of transformers do."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)
        self.are_installed = False

    def forward(self, x):
        if not self.are_installed:
            self.first.register_forward_pre_hook(lambda part, args: (args[0] + 1,))
            self.second.register_forward_hook(lambda part, args, y: 2 * y)
            self.are_installed = True
        return self.second(self.first(x).sin())


KINDS = {
    "hooks that it installs": Installing,
    "adjoint": lambda: Adjoint(Invertible),
    "adjoint_of_func": lambda: Adjoint(Functional),
    "doubled": Doubled,
    "checkpoint": Checkpointed,
    "recursive": Recursive,
    "remembering": Remembering,
    "tied_buffers": lambda: TiedBuffers(place=True),
    "hooks": hooked,
    "recurrent": Recurrent,
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    "spectral_norm_by_hooks": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
}


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_module_with_other_parameters(kind, capture):
    torch.manual_seed(1)
    compared(KINDS[kind](), capture)


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_parametrizations_that_are_cached_outside(capture):
    torch.manual_seed(1)
    module = Shared()

    @contextlib.contextmanager
    def cached():
        with parametrize.cached():
            module(torch.tensor(X))
            yield

    compared(module, capture, cached)


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_a_module_that_fails_is_put_back(capture):
    class Failing(nn.Linear):
        def forward(self, x):
            self.seen = super().forward(x)
            raise KeyboardInterrupt

    module = Failing(3, 3)
    there = torch2jax(module, capture=capture)
    before = state(module)
    with pytest.raises(KeyboardInterrupt):
        there.apply(there.params, there.buffers, X)
    assert state(module) == before


def test_one_module_in_several_threads():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    there = torch2jax(module, capture="never")
    before = state(module)
    results = {}

    def run(k):
        params = {name: x + k for name, x in there.params.items()}
        f = lambda p: (there.apply(p, there.buffers, X)[0] ** 3).sum()
        results[k] = [jax.grad(f)(params) for _ in range(5)]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for k in range(4):
        twin = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        values = {name: torch.tensor(np.asarray(x + k)) for name, x in there.params.items()}
        twin.load_state_dict(values, strict=False)
        (twin(torch.tensor(X)) ** 3).sum().backward()
        for gradients in results[k]:
            for name, parameter in twin.named_parameters():
                np.testing.assert_allclose(gradients[name], parameter.grad, rtol=1e-3, atol=1e-3)
    assert state(module) == before


@pytest.mark.parametrize("lower", ["ffi", "xla"])
@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("closed_over", [False, True])
def test_hooks_that_a_run_installs_are_gone(closed_over, capture, lower):
    if (capture, lower) == ("never", "xla"):
        pytest.skip("nothing is compiled")
    module = Installing()
    if closed_over:
        there = torch2jax(lambda x: module(x), capture=capture, lower=lower)
        call = there
    else:
        there = torch2jax(module, capture=capture, lower=lower)
        call = lambda x: there.apply(there.params, {}, x)[0]
    results = [call(X), call(X)]
    jax.grad(lambda x: (call(x) ** 2).sum())(X)
    native = module(torch.tensor(X)).detach()
    for result in results:
        np.testing.assert_allclose(result, native, rtol=1e-4)
    assert len(module.first._forward_pre_hooks) == len(module.second._forward_hooks) == 1
