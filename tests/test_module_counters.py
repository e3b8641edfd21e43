"""Modules of torch that change Python values in a call, which a graph cannot."""

import types

import numpy as np
import pytest

from bridge import ArgumentError, torch2jax, torch2mlx

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))


class Annealed(Scale):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.weight * x / self.calls


class InDict(Scale):
    def __init__(self):
        super().__init__()
        self.state = {"calls": 0}

    def forward(self, x):
        self.state["calls"] += 1
        return self.weight * x / self.state["calls"]


class InObject(Scale):
    def __init__(self):
        super().__init__()
        self.state = types.SimpleNamespace(calls=0)

    def forward(self, x):
        self.state.calls += 1
        return self.weight * x / self.state.calls


class Alternating(Scale):
    is_odd = False

    def forward(self, x):
        self.is_odd = not self.is_odd
        return self.weight * x if self.is_odd else x


class Counting(Scale):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.weight * x


class Caching(Scale):
    """As rotary embeddings do, which build a table when a longer sequence comes."""

    length = 0
    table = None

    def forward(self, x):
        if self.table is None or self.length < len(x):
            self.length, self.table = len(x), [0.5 * i for i in range(len(x))]
        return self.weight * x + torch.tensor(self.table)


class Noting(Scale):
    """It writes what nothing here reads."""

    last_shape = None
    last_length = 0
    dropped = ""

    def forward(self, x):
        self.last_shape, self.last_length, self.dropped = tuple(x.shape), len(x), "none"
        return self.weight * x


X = jnp.asarray([1.0, -2.0, 0.5])


def apply(module, **options):
    net = torch2jax(module, **options)
    return net.apply(net.params, net.buffers, X)[0]


@pytest.mark.parametrize("options", [{}, {"capture": "never"}, {"lower": "xla"}], ids=str)
@pytest.mark.parametrize(
    ("kind", "attribute", "values"),
    [
        (Annealed, "calls", "from 0 to 1, then to 2,"),
        (Alternating, "is_odd", "from False to True, then to False,"),
    ],
)
def test_results_that_follow_from_a_counter_are_refused(kind, attribute, values, options):
    module = kind()
    text = f"{kind.__name__} changes its attribute `{attribute}` in each call, {values}"
    with pytest.raises(ArgumentError, match=text):
        apply(module, **options)
    assert getattr(module, attribute) in (0, False)


@pytest.mark.parametrize("kind", [InDict, InObject])
def test_counters_in_what_an_attribute_holds_are_refused(kind):
    module = torch.nn.Sequential(kind())
    with pytest.raises(ArgumentError, match=r"its attribute `0\.state\.calls` in each call"):
        apply(module, capture="require")
    with pytest.raises(ArgumentError, match="make it a buffer, by `register_buffer`"):
        apply(module)


@pytest.mark.parametrize("kind", [InDict, InObject])
def test_counters_that_a_rerun_module_keeps_count(kind):
    net = torch2jax(kind(), capture="never")
    results = [net.apply(net.params, net.buffers, X)[0] for _ in range(3)]
    for calls, y in enumerate(results, 1):
        np.testing.assert_allclose(y, np.array([1.0, -4.0, 1.5]) / calls, rtol=1e-6)


def test_in_mlx_they_are_refused_too():
    mx = pytest.importorskip("mlx.core")
    with pytest.raises(ArgumentError, match="changes its attribute `calls`"):
        torch2mlx(Annealed())(mx.array([1.0, -2.0, 0.5]))


def test_of_a_counter_that_results_do_not_follow_a_warning_tells():
    with pytest.warns(UserWarning, match="If results depend on it, make it a buffer") as warnings:
        y = apply(Counting())
    assert [w.filename for w in warnings] == [__file__]
    np.testing.assert_allclose(y, [1.0, -4.0, 1.5])


class Hooking(Scale):
    """As models of transformers do, which install hooks in their first call."""

    is_hooked = False

    def __init__(self):
        super().__init__()
        self.inner, self.outputs = torch.nn.Tanh(), []

    def forward(self, x):
        if not self.is_hooked:
            self.inner.register_forward_hook(lambda *results: self.outputs.append(results[-1]))
            self.is_hooked = True
        self.outputs.clear()
        return self.inner(self.weight * x), [*self.outputs]


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_hooks_of_the_first_call_are_no_counters(capture, recwarn):
    y, (output,) = apply(Hooking(), capture=capture)
    np.testing.assert_allclose(y, np.tanh([1.0, -4.0, 1.5]), rtol=1e-6)
    np.testing.assert_allclose(output, y)
    assert not recwarn.list


class Making(Scale):
    """It makes a part of itself, with numbers in it, in each call."""

    def forward(self, x):
        self.part = torch.nn.Hardtanh(-9.0, 9.0)
        return self.part(self.weight * x)


@pytest.mark.parametrize("options", [{}, {"capture": "never"}, {"lower": "xla"}], ids=str)
@pytest.mark.parametrize("kind", [Caching, Noting, Making])
def test_caches_and_notes_pass_in_silence(kind, options, recwarn):
    module, x = kind(), torch.tensor(np.asarray(X))
    expected = kind()(x).detach()
    np.testing.assert_allclose(apply(module, **options), expected)
    assert not recwarn.list


class Checking(Annealed):
    """It takes no values but those of the call."""

    def forward(self, x):
        if not torch.compiler.is_compiling():
            assert x.tolist() == [1.0, -2.0, 0.5]
        return super().forward(x)


def test_where_made_up_values_tell_nothing_a_warning_does():
    with pytest.warns(UserWarning, match="in a call, from 0 to 1, but here each call starts"):
        apply(Checking())


class Drawing(Counting):
    def forward(self, x):
        return torch.nn.functional.dropout(super().forward(x))


def test_random_numbers_are_no_sign_of_a_counter():
    net = torch2jax(Drawing())
    with pytest.warns(UserWarning, match="changes its attribute `calls`"):
        net.apply(net.params, net.buffers, X, rng=jax.random.key(0))
