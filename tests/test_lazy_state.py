"""Modules of torch that make in a call what their next call goes on from."""

import types

import numpy as np
import pytest

from bridge import ArgumentError, torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy

X = np.array([1.0, -2.0, 0.5], "float32")
OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"capture": "never"}, {"lower": "xla"}], ids=["auto", "never", "xla"]
)


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))


class Sum(Scale):
    total = None

    def forward(self, x):
        self.total = x if self.total is None else self.total + x
        return self.weight * self.total


class EmptyBuffer(Scale):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", None)

    def forward(self, x):
        self.total = x.detach() if self.total is None else self.total + x.detach()
        return self.weight * self.total


class LateBuffer(Scale):
    def forward(self, x):
        if not hasattr(self, "total"):
            self.register_buffer("total", torch.zeros(3))
        self.total = self.total + x.detach()
        return self.weight * self.total


class LateStatistic(Scale):
    """It keeps in a buffer what it was first called with, as data-dependent initialization does."""

    def __init__(self):
        super().__init__()
        self.is_first = True
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        if self.is_first:
            self.total, self.is_first = 2 * x.detach(), False
        return self.weight * (3 * x - self.total)


class Masked(Scale):
    """It drops the same elements in each call, as variational dropout does."""

    mask = None

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.bernoulli(torch.full((3,), 0.5))
        return self.weight * x * self.mask


class ZeroGain(Sum):
    """Its state shows only once it is trained."""

    def __init__(self):
        super().__init__()
        torch.nn.init.zeros_(self.weight)


class OfIndices(Scale):
    total = None

    def forward(self, x):
        i = (x > 0).to(torch.int32)
        self.total = i if self.total is None else self.total + i
        return self.weight * self.total


class Tupled(Scale):
    past = ()

    def forward(self, x):
        self.past = (*self.past, x.detach())
        return self.weight * sum(self.past)


class Replacing(Scale):
    function = staticmethod(torch.sin)

    def forward(self, x):
        y = self.weight * self.function(x)
        self.function = torch.cos
        return y


class Nested(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Sum()

    def forward(self, x):
        return torch.tanh(self.inner(x))


def apply(module, **options):
    net = torch2jax(module, **options)
    return net.apply(net.params, net.buffers, jnp.asarray(X))[0]


@OPTIONS
@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        (Sum, "total"),
        (Nested, "inner.total"),
        (EmptyBuffer, "total"),
        (LateBuffer, "total"),
        (LateStatistic, "is_first"),
        (ZeroGain, "total"),
        (OfIndices, "total"),
        (Tupled, "past"),
        (Replacing, "function"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_state_that_a_call_makes_for_the_next_is_refused(kind, attribute, options, training):
    module = kind().train(training)
    with pytest.raises(ArgumentError, match=f"{kind.__name__} changes its attribute `{attribute}`"):
        apply(module, **options)
    assert [*module.state_dict()] == [*kind().state_dict()]  # it is as it was
    torch.testing.assert_close(module(torch.tensor(X)), kind()(torch.tensor(X)))


@pytest.mark.parametrize("kind", [Sum, EmptyBuffer, LateBuffer, LateStatistic])
def test_in_stateful_modules_of_jax_and_mlx_it_is_refused_too(kind):
    mx = pytest.importorskip("mlx.core")
    pytest.importorskip("flax")
    with pytest.raises(ArgumentError, match="make it a buffer"):
        torch2jax(kind()).to_nnx()(jnp.asarray(X))
    with pytest.raises(ArgumentError, match="make it a buffer"):
        torch2mlx(kind())(mx.array(X))


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_random_numbers_that_stay_are_refused(capture):
    net = torch2jax(Masked(), capture=capture)
    with pytest.raises(ArgumentError, match="changes its attribute `mask`"):
        net.apply(net.params, net.buffers, jnp.asarray(X), rng=jax.random.key(0))


class EmptyParameter(Scale):
    def __init__(self):
        super().__init__()
        self.register_parameter("shift", None)

    def forward(self, x):
        if self.shift is None:
            self.shift = torch.nn.Parameter(torch.zeros(3))
        return self.weight * x + self.shift


class LatePart(Scale):
    def __init__(self):
        super().__init__()
        self.part = None

    def forward(self, x):
        if self.part is None:
            self.part = torch.nn.LayerNorm(len(x))
        return self.part(self.weight * x)


@OPTIONS
@pytest.mark.parametrize(("kind", "made"), [(EmptyParameter, "shift"), (LatePart, "part")])
def test_parameters_that_a_call_makes_are_refused(kind, made, options):
    module = kind()
    with pytest.raises(ArgumentError, match=f"makes `{made}`, .*, and it would not be trained"):
        apply(module, **options)
    module(torch.tensor(X))  # as the error advises
    expected = module(torch.tensor(X)).detach()
    np.testing.assert_allclose(apply(module, **options), expected, rtol=1e-5)


class Table(Scale):
    """As rotary embeddings and masks do, which are made in the first call."""

    table = None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(len(x)).sin()
            self.register_buffer("mask", torch.ones(3, 3).tril()[1], persistent=False)
        return self.weight * x + self.table + self.mask


class Filled(Scale):
    def __init__(self):
        super().__init__()
        self.is_filled = False
        self.register_buffer("table", torch.zeros(3))

    def forward(self, x):
        if not self.is_filled:
            self.table.copy_(torch.arange(3.0))
            self.is_filled = True
        return self.weight * x + self.table


class LateWithOthers(Filled):
    """Buffers that it changes in each call come after one that its first call alone changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.tensor(0.0))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


class Logging(Scale):
    last = None

    def forward(self, x):
        y = self.weight * x
        self.last, self.norm = y, y.detach().norm()
        self.shapes, self.seen = [x.shape], {"y": y}
        return y


class Merged(Scale):
    """It keeps what it computes of its parameters."""

    merged = None

    def forward(self, x):
        if self.merged is None:
            self.merged = 2 * self.weight
        return self.merged * x


class Switching(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)])

    def forward(self, x):
        self.current = self.parts[1]
        self.all = torch.nn.Sequential(self.parts[0], torch.nn.Tanh(), self.current)
        return self.all(x)


def weight_normed():
    return torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))


def hooked():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    module[0].register_forward_hook(lambda part, _, y: setattr(part, "seen", y.detach()))
    return module


def lstm():
    class Last(torch.nn.LSTM):
        def forward(self, x):
            return super().forward(x[:, None])[0]

    return Last(1, 2)


@OPTIONS
@pytest.mark.parametrize(
    "make",
    [Table, Filled, LateWithOthers, Logging, Merged, Switching, weight_normed, hooked, lstm],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_changes_no_results_passes_in_silence(make, options, training, recwarn):
    module = make().train(training)
    y = apply(module, **options)
    np.testing.assert_allclose(y, module(torch.tensor(X)).detach(), rtol=1e-5, atol=1e-6)
    assert not [x for x in recwarn.list if "attribute" in str(x.message)]


@OPTIONS
def test_in_objects_tensors_are_refused_or_go_on(options):
    module, x = Sum(), jnp.asarray(X)
    module.forward = types.MethodType(sum_in_dict, module)
    module.state = {"total": None}
    net = torch2jax(module, **options)
    if options != {"capture": "never"}:
        with pytest.raises(ArgumentError, match="keeps a tensor"):
            net.apply(net.params, net.buffers, x)
        return
    results = [net.apply(net.params, net.buffers, x)[0] for _ in range(3)]
    np.testing.assert_allclose(results, np.outer([1, 2, 3], X * [1, 2, 3]))


def sum_in_dict(self, x):
    total = self.state["total"]
    self.state["total"] = x.detach() if total is None else total + x.detach()
    return self.weight * self.state["total"]


def test_what_was_made_before_is_part_of_the_module():
    module, x = LateBuffer(), torch.tensor(X)
    module(x)
    net = torch2jax(module)
    y, buffers = net.apply(net.params, net.buffers, jnp.asarray(X))
    np.testing.assert_allclose(y, module(x).detach())
    np.testing.assert_allclose(buffers["total"], module.total)
