"""State of Python in modules of MLX: a module's own is refused, that of others is followed."""

import collections
import concurrent.futures
import copy
import dataclasses
import functools
import itertools
import random
import time

import numpy as np
import pytest

import bridge
from bridge import mlx2torch, to_mlx

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
torch = pytest.importorskip("torch")

X = torch.tensor([[1.0, 3.0]])


@dataclasses.dataclass
class Record:
    """An object with a number."""

    n: int = 0

    def up(self):
        self.n += 1
        return self.n


class Slotted:
    """An object that has no dict."""

    __slots__ = ("n",)

    def __init__(self):
        self.n = 0

    def __repr__(self):
        return f"Slotted({self.n})"

    up = Record.up


class Holding(nn.Module):
    """A layer that holds something, and does something with it in its call."""

    def __init__(self, held, use):
        super().__init__()
        self.w, self.use = mx.array([1.0, 2.0]), use
        self.held = held

    def __call__(self, x):
        return x * self.w * self.use(self)


def replace(self):
    self.held = Record(self.held.n + 1)
    return self.held.n


def write(self):
    array = self.held[0]
    array += 1
    return array


def normalize(self):
    return self.held[0](mx.array([[1.0], [2.0]])).sum()


def rebind(self):
    self.held = self.held + 1
    return float(self.held[0])


def grow(self):
    self.held += 1
    return float(self.held[0])


CHANGES = {
    "a set": (
        lambda: {1},
        lambda m: m.held.add(2) or len(m.held),
        r"'held' from \{1\} to \{1, 2\}",
    ),
    "a deque": (
        lambda: collections.deque([0], maxlen=2),
        lambda m: m.held.append(1) or len(m.held),
        r"'held' from deque\(\[0\]\) to deque\(\[0, 1\]\)",
    ),
    "an object": (Record, lambda m: m.held.up(), "'n' from 0 to 1"),
    "slots": (Slotted, lambda m: m.held.up(), "'n' from 0 to 1"),
    "an object in a tuple": (lambda: (Record(),), lambda m: m.held[0].up(), "'n' from 0 to 1"),
    "an object in a list": (lambda: [Record()], lambda m: m.held[0].up(), "'n' from 0 to 1"),
    "a bound method": (lambda: Record().up, lambda m: m.held(), "'n' from 0 to 1"),
    "a partial": (
        lambda: functools.partial(Record.up, Record()),
        lambda m: m.held(),
        "'n' from 0 to 1",
    ),
    "another object": (Record, replace, r"'held' from Record\(n=0\) to Record\(n=1\)"),
    "a counter": (
        collections.Counter,
        lambda m: m.held.update(["call"]) or m.held["call"],
        "'call' from None to 1",
    ),
    "an array in a tuple": (lambda: (mx.zeros(1),), write, "an array .*, '0'"),
    "a module in a tuple": (lambda: (nn.BatchNorm(1),), normalize, "an array .*, 'running_mean'"),
    "an array of NumPy": (lambda: np.zeros(2), grow, "an array .*, 'held'"),
    "another array of NumPy": (lambda: np.zeros(2), rebind, "'held' from array"),
    "bytes": (
        lambda: bytearray(b"\0"),
        lambda m: m.held.__setitem__(0, 1) or 1.0,
        "an array .*, 'held'",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_a_module_holds_and_changes_is_refused_by_name(kind):
    make, use, text = CHANGES[kind]
    module = Holding(make(), use)
    before = repr(module.held)
    layer = mlx2torch(module)
    for _ in range(2):
        with pytest.raises(bridge.ArgumentError, match=f"Holding changes .*{text}.* a buffer"):
            layer(X)
    assert repr(module.held) == before
    assert layer.w.tolist() == [1.0, 2.0]
    if kind not in ("a bound method", "a partial"):  # which show where the object is
        assert repr(to_mlx(layer).held) == before


KEPT = {
    "a generator": (lambda: random.Random(0), lambda m: m.held.random()),
    "a generator of NumPy": (lambda: np.random.default_rng(0), lambda m: m.held.random()),
    "an iterator": (lambda: itertools.count(1), lambda m: next(m.held)),
    "an object made once": (lambda: None, lambda m: setattr(m, "held", Record(3)) or m.held.n),
    "an equal object": (Record, lambda m: setattr(m, "held", Record()) or 2.0),
    "an equal set": (lambda: {1}, lambda m: m.held.add(1) or len(m.held)),
}


@pytest.mark.parametrize("kind", KEPT)
def test_generators_iterators_and_caches_are_as_in_mlx(kind):
    make, use = KEPT[kind]
    native, layer = Holding(make(), use), mlx2torch(Holding(make(), use))
    x = X.clone().requires_grad_()
    for _ in range(3):
        factor = native(mx.ones(2))
        output = layer(x)
        np.testing.assert_allclose(output.detach(), (X * torch.tensor(factor.tolist())).numpy())
        (slope,) = torch.autograd.grad(output.sum(), x)
        np.testing.assert_allclose(slope, [factor.tolist()])


class Counted(nn.Module):
    """A layer that counts its calls in a place that is no part of it."""

    total = 0

    def __init__(self, count):
        super().__init__()
        self.w, self._count = mx.array([1.0, 2.0]), count

    def __call__(self, x):
        return x * self.w * self._count()


CALLS = {"n": 0}


def in_a_global():
    CALLS["n"] += 1
    return CALLS["n"]


def in_a_class():
    Counted.total += 1
    return Counted.total


def in_a_closure():
    n = 0

    def count():
        nonlocal n
        n += 1
        return n

    return count


OUTSIDE = {
    "a global": lambda: in_a_global,
    "a class": lambda: in_a_class,
    "a closure": in_a_closure,
    "random": lambda: random.random,
    "random numbers of Python": lambda: lambda: random.uniform(1, 2),
    "random numbers of NumPy": lambda: np.random.rand,
}


@pytest.mark.parametrize("kind", OUTSIDE)
@pytest.mark.parametrize("wrapped", ["module", "function"])
def test_derivatives_are_those_of_the_call_where_others_hold_the_state(kind, wrapped):
    Counted.total = CALLS["n"] = 0
    random.seed(3)
    module = Counted(OUTSIDE[kind]())
    call = mlx2torch(module if wrapped == "module" else lambda x: module(x))
    x, factors = X.clone().requires_grad_(), []
    for _ in range(3):
        output = call(x)
        (slope,) = torch.autograd.grad(output.sum(), x)
        factors.append(slope[0, 0].item())
        np.testing.assert_allclose(output.detach(), [[factors[-1], 6 * factors[-1]]], rtol=1e-6)
    if "random" not in kind:
        assert factors == [1.0, 2.0, 3.0]
    if kind == "random":
        random.seed(3)
        np.testing.assert_allclose(factors, [random.random() for _ in range(3)], rtol=1e-6)
    assert len({*factors}) == 3


class Tree(nn.Module):
    """A module with an `__iter__`, a `__getitem__` and a `__len__` of its own."""

    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

    def __iter__(self):
        return iter(self.layers)

    def __len__(self):
        return len(self.layers)

    def __getitem__(self, key):
        return self.layers[key] if isinstance(key, int) else super().__getitem__(key)

    def __call__(self, x):
        return self[1](self[0](x))


def test_a_module_with_container_methods_of_its_own():
    module = Tree()
    native = module(mx.array(X.numpy()))
    for call in (mlx2torch(module), mlx2torch(lambda x: module(x))):
        np.testing.assert_allclose(call(X).detach().numpy(), np.array(native), rtol=1e-6)


class Checkpointed(nn.Module):
    """A layer that MLX runs again in the backward pass, with arrays that are not trained."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(3, 3), nn.BatchNorm(3), nn.Linear(3, 3)
        self.outer.freeze()

    def __call__(self, x):
        body = lambda x: mx.tanh(self.outer(self.norm(self.inner(x))))
        return nn.utils.checkpoint(self, body)(x)


@pytest.mark.parametrize("residuals", ["recompute", "save"])
@pytest.mark.parametrize("training", [True, False])
def test_what_runs_again_in_the_backward_pass_has_the_arrays_and_modes_of_the_call(
    residuals, training
):
    layer = mlx2torch(Checkpointed(), residuals=residuals).train(training)
    with torch.no_grad():
        for name, factor in {"outer.weight": 3.0, "norm.running_var": 2.5}.items():
            layer.state_dict()[name].mul_(factor)
    named = {name: x.detach().clone() for name, x in layer.state_dict().items()}
    free = [named[name].requires_grad_() for name, _ in layer.named_parameters()]
    x = torch.linspace(-1, 2, 12).reshape(4, 3).cos()
    y = torch.nn.functional.linear(x, named["inner.weight"], named["inner.bias"])
    statistics = (named["norm.running_mean"].clone(), named["norm.running_var"].clone())
    affine = (named["norm.weight"], named["norm.bias"])
    y = torch.nn.functional.batch_norm(y, *statistics, *affine, training=training)
    y = torch.nn.functional.linear(y, named["outer.weight"], named["outer.bias"]).tanh()
    expected = torch.autograd.grad((y**3).sum(), free)
    output = layer(x)
    torch.testing.assert_close(output, y, rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad((output**3).sum(), [*layer.parameters()])
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-5)


class Slow(nn.Module):
    """A layer that lets other threads run before it reads its parameter."""

    def __init__(self, *, again):
        super().__init__()
        self.w, self.again = mx.ones(2), again

    def __call__(self, x):
        time.sleep(0.01)
        body = lambda x: mx.sin(x * self.w)
        return nn.utils.checkpoint(self, body)(x) if self.again else body(x)


@pytest.mark.parametrize("again", [False, True])
def test_copies_of_a_layer_in_threads(again):
    first = mlx2torch(Slow(again=again))
    layers = [first, *(copy.deepcopy(first) for _ in range(3))]
    with torch.no_grad():
        for factor, layer in enumerate(layers):
            layer.w.mul_(factor + 1)
    first(X).sum().backward()

    def gradient(layer):
        return torch.autograd.grad(layer(X).sum(), layer.w)[0]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        gradients = [*pool.map(gradient, layers * 3)]
    expected = [X[0] * (X[0] * layer.w.detach()).cos() for layer in layers]
    torch.testing.assert_close(gradients, expected * 3, rtol=1e-5, atol=1e-5)
